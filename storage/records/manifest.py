"""The manifest: the commit record of a cache key, with the size, checksum and rows of its files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from storage.errors import StoreError
from storage.records.checksummed_json import seal, unseal
from storage.records.layout import check_file, check_key, check_stage


@dataclass(frozen=True, kw_only=True)
class StoredFile:
    """One committed file: path relative to the store, size in bytes, sha256, rows (None where it has none)."""

    path: str
    bytes: int
    sha256: str
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The committed result of a stage under a key: its files, the content that the key hashes, and its provenance.

    created_at is UTC, ISO 8601. `content` determines the files; `provenance` (batch size, device, duration) does not.
    """

    stage: str
    key: str
    schema_version: int
    files: tuple[StoredFile, ...]
    content: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    created_at: str

    def paths(self, folder: str) -> list[str]:
        """List the files in one folder of the store, such as `responses`."""
        return [file.path for file in self.files if file.path.startswith(f"{folder}/")]

    def path(self, folder: str) -> str:
        """Name the only file in one folder; raises StoreError if there is none or more than one."""
        found = self.paths(folder)
        if len(found) != 1:
            raise StoreError(
                f"the manifest {self.stage}/{self.key} names {len(found)} files in {folder}/, not one: "
                "ask for them with paths()"
            )
        return found[0]

    @property
    def rows(self) -> int:
        """Count the rows of all files."""
        return sum(file.rows or 0 for file in self.files)

    def to_json(self) -> bytes:
        """Serialize the manifest as a sealed JSON record."""
        return seal(asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read a manifest; raises StoreError unless its seal verifies and every name in it is safe."""
        record = unseal(data)
        try:
            files = tuple(StoredFile(**file) for file in record.pop("files"))
            manifest = cls(**record, files=files)
        except (TypeError, KeyError) as error:
            raise StoreError(f"it lacks or adds a member: {error}") from error
        check_stage(manifest.stage)
        check_key(manifest.key)
        for file in files:
            check_file(file.path)
        return manifest


def read_manifest(path: str, data: bytes) -> Manifest:
    """Read the manifest at `path`; raises StoreError as `Manifest.from_json` does, or if it is of another key."""
    manifest = Manifest.from_json(data)
    if manifest_file(manifest.stage, manifest.key) != path:
        raise StoreError("it was written for another stage or key")
    return manifest


def manifest_file(stage: str, key: str) -> str:
    """The path of a manifest; raises StoreError for names that are not plain."""
    return str(Path("manifests", check_stage(stage), f"{check_key(key)}.json").as_posix())
