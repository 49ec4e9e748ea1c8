"""A read-only file system for DuckDB that exposes committed files and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from fsspec import AbstractFileSystem

from storage.backends.base import Files
from storage.records.manifest import StoredFile
from storage.sql.shared_reader import SharedReader

PROTOCOL = "store"


class CommittedFiles(AbstractFileSystem):
    """The read-only fsspec file system store://, of the files that manifests name."""

    protocol = PROTOCOL
    # fsspec would otherwise reuse one store's instance for another's connection.
    cachable = False

    def __init__(self, files: Files, committed: Mapping[str, StoredFile]) -> None:
        super().__init__()
        self._files = files
        self._committed = dict(committed)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(f"{PROTOCOL}://")

    def _open(self, path: str, mode: str = "rb", **_: Any) -> SharedReader:
        if mode != "rb":
            raise PermissionError(f"the store is read-only here: {path} was not written")
        return SharedReader(self._files.open(self._one(path).path))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        file = self._one(path)
        return {"name": file.path, "size": file.bytes, "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        return self._strip_protocol(path) in self._committed

    def isfile(self, path: str) -> bool:
        return self.exists(path)

    def isdir(self, _: str) -> bool:
        return False

    def glob(self, path: str, **_: Any) -> list[str]:
        return [name] if (name := self._strip_protocol(path)) in self._committed else []

    def modified(self, _: str) -> datetime:
        # A file's name contains its digest, so no file is ever modified.
        return datetime.fromtimestamp(0, UTC)

    def _one(self, path: str) -> StoredFile:
        name = self._strip_protocol(path)
        if name not in self._committed:
            raise FileNotFoundError(f"no manifest of this store names {name}")
        return self._committed[name]
