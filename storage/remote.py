"""Files behind an fsspec URL, where one put makes a file visible at once."""

from __future__ import annotations

import io
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import fsspec
from fsspec.implementations.memory import MemoryFile

from storage.errors import StoreError, explained
from storage.paths import check_file


class RemoteFiles:
    """A folder behind an fsspec URL, such as s3://bucket/folder or memory://folder.

    Raises StoreError if the URL's protocol is unknown or lacks its package. Credentials come from the environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._system, root = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as error:
            protocol = self.url.partition("://")[0]
            raise StoreError(
                f"cannot open the store {self.url}: {error}. Install the fsspec package for {protocol}://, "
                "or give a folder on a disk"
            ) from error
        self._root = root.rstrip("/")

    def exists(self) -> bool:
        # An object store has no empty folders, so any place that can be asked counts.
        return True

    def write(self, path: str, source: bytes | Path) -> None:
        place = self._place(path)
        with explained("write", place):
            if isinstance(source, bytes):
                self._system.pipe_file(place, source)
            else:
                self._system.put_file(str(source), place)

    def scratch(self, folder: str) -> Path:
        check_file(folder)
        handle, place = tempfile.mkstemp(prefix="cmrm-", suffix=".tmp")
        os.close(handle)
        return Path(place)

    def adopt(self, path: str, scratch: Path) -> None:
        self.write(path, scratch)
        scratch.unlink()

    def copy(self, source: str, path: str) -> None:
        original, place = self._place(source), self._place(path)
        try:
            self._system.cp_file(original, place)
        except FileNotFoundError:
            raise
        except OSError:
            with explained("write", place):
                raise

    def open(self, path: str) -> IO[bytes]:
        place = self._place(path)
        try:
            stream: IO[bytes] = self._system.open(place, "rb")
        except FileNotFoundError:
            raise
        except OSError:
            with explained("read", place):
                raise
        # The memory file system hands one file, with one position, to all its readers.
        return io.BytesIO(stream.getvalue()) if isinstance(stream, MemoryFile) else stream

    def size(self, path: str) -> int | None:
        place = self._place(path)
        with explained("look at", place):
            try:
                return int(self._system.info(place)["size"])
            except FileNotFoundError:
                return None

    def modified(self, path: str) -> datetime | None:
        place = self._place(path)
        with explained("look at", place):
            try:
                modified: datetime = self._system.modified(place)
            except FileNotFoundError:
                return None
        return modified if modified.tzinfo else modified.replace(tzinfo=UTC)

    def unfinished(self) -> list[str]:
        """List nothing: what is not put whole is not there."""
        return []

    def under(self, folder: str) -> list[str]:
        top = self._place(folder) if folder else self._root
        with explained("list", top):
            # A listing kept from before would hide what other processes have written since.
            self._system.invalidate_cache()
            try:
                found = self._system.find(top)
            except FileNotFoundError:
                return []
        start = len(self._root) + 1 if self._root else 0
        return sorted(name[start:] for name in found if not name.rpartition("/")[2].startswith("."))

    def remove(self, path: str) -> None:
        place = self._place(path)
        with explained("remove", place):
            try:
                self._system.rm_file(place)
            except FileNotFoundError:
                return

    def prune(self, folder: str) -> None:
        """Do nothing: folders here are only parts of names."""

    def _place(self, path: str) -> str:
        return f"{self._root}/{check_file(path)}"
