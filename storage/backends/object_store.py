"""Backend for fsspec URLs (S3 and others), where one put is an atomic write."""

from __future__ import annotations

import errno
import io
import os
import tempfile
import time
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import fsspec

from storage.backends.remote_errors import error_code, remote_explained
from storage.backends.s3 import ROUNDS, S3_PROTOCOLS, connection_options, upload_options
from storage.backends.stream import LEAST_PREFETCH, RemoteStream
from storage.errors import StoreError, explained
from storage.records.layout import cache_folder, check_file

_FILES_AT_ONCE = 512
_SCRATCH_SECONDS = 86_400
# What services answer to a condition that they do not know.
NO_CONDITIONS = frozenset({"NotImplemented", "501"})


class RemoteFiles:
    """A folder behind an fsspec URL, such as s3://bucket/folder or memory://folder.

    Raises StoreError if the URL's protocol is unknown or its package is not installed. Credentials come from the
    environment.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        if "://" not in self.url:
            raise StoreError(f"{url} names no bucket or folder: give a URL such as s3://bucket/folder")
        self._protocol = self.url.partition("://")[0]
        self._connection, self._root = self._connect()
        self._process = os.getpid()

    def exists(self) -> bool:
        # An object store has no empty folders, so any reachable location counts.
        return True

    def write(self, path: str, source: bytes | Path) -> None:
        place, shown = self._place(path), self._shown(path)
        with explained("write", shown), remote_explained("write", shown):
            size = len(source) if isinstance(source, bytes) else source.stat().st_size
            options = upload_options(size) if self._protocol in S3_PROTOCOLS else {}
            if isinstance(source, bytes):
                self._system.pipe_file(place, source, **options)
            else:
                self._system.put_file(str(source), place, **options)

    def create(self, path: str, data: bytes) -> bool:
        place, shown = self._place(path), self._shown(path)
        try:
            with remote_explained("write", shown):
                self._system.pipe_file(place, data, mode="create")
        except StoreError as error:
            if isinstance(error.__cause__, FileExistsError):
                return False
            if error_code(error) in NO_CONDITIONS:
                # Some services that speak S3 have no conditional write: there the last writer wins.
                self.write(path, data)
                return True
            raise
        return True

    def scratch(self, folder: str) -> Path:
        check_file(folder)
        scratch = cache_folder() / "scratch"
        with explained("write", str(scratch)):
            scratch.mkdir(parents=True, exist_ok=True)
            for left in scratch.glob("*.tmp"):
                # Left by a killed process.
                with suppress(FileNotFoundError):
                    if left.stat().st_mtime < time.time() - _SCRATCH_SECONDS:
                        left.unlink()
            handle, place = tempfile.mkstemp(suffix=".tmp", dir=scratch)
        os.close(handle)
        return Path(place)

    def adopt(self, path: str, scratch: Path) -> None:
        self.write(path, scratch)
        scratch.unlink()

    def copy(self, source: str, path: str) -> None:
        with remote_explained("write", self._shown(path)):
            self._system.cp_file(self._place(source), self._place(path))

    def open(self, path: str) -> IO[bytes]:
        # Most files are small: the first chunk is the whole file, in one request and so consistent.
        first = self._read_start(path)
        if len(first) < LEAST_PREFETCH:
            return io.BytesIO(first)
        size = self.size(path)
        if size is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self._shown(path))
        return cast("IO[bytes]", RemoteStream(partial(self._fetch, path), size, first=first))

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """Read many small files concurrently, in the given order; None for a missing one."""
        for start in range(0, len(paths), _FILES_AT_ONCE):
            chosen = paths[start : start + _FILES_AT_ONCE]
            with remote_explained("read", self.url):
                answers = self._system.cat_ranges(
                    [self._place(path) for path in chosen], None, None, on_error="return"
                )
            for path, answer in zip(chosen, answers, strict=True):
                yield path, self._data_or_none(path, answer)

    def size(self, path: str) -> int | None:
        place = self._place(path)
        try:
            with remote_explained("access", self._shown(path)):
                self._system.invalidate_cache()
                info = self._system.info(place)
        except FileNotFoundError:
            return None
        return int(info["size"]) if info["type"] == "file" else None

    def sizes(self, folder: str) -> dict[str, int]:
        """The sizes in bytes of all files in a folder, recursively, sorted by name, from one listing."""
        top = self._place(folder) if folder else self._root
        try:
            with remote_explained("list", self._shown(folder)):
                # A cached listing would hide what other processes have written since.
                self._system.invalidate_cache()
                found = self._system.find(top, detail=True)
        except FileNotFoundError:
            return {}
        start = len(self._root) + 1 if self._root else 0
        named = {name[start:]: int(info["size"]) for name, info in found.items()}
        return {name: named[name] for name in sorted(named) if _is_plain(name)}

    def stamp(self, path: str) -> Hashable | None:
        try:
            with remote_explained("access", self._shown(path)):
                self._system.invalidate_cache()
                info = self._system.info(self._place(path))
        except FileNotFoundError:
            return None
        # Not every service returns an ETag; name and size alone do not detect a change.
        etag = info.get("ETag") or info.get("etag")
        return None if etag is None else (str(etag), int(info["size"]), str(info.get("LastModified")))

    def modified(self, path: str) -> datetime | None:
        try:
            with remote_explained("access", self._shown(path)):
                modified: datetime = self._system.modified(self._place(path))
        except FileNotFoundError:
            return None
        return modified if modified.tzinfo else modified.replace(tzinfo=UTC)

    def unfinished(self) -> list[str]:
        """List nothing: an incomplete put is not visible."""
        return []

    def under(self, folder: str) -> list[str]:
        return list(self.sizes(folder))

    def remove(self, path: str) -> None:
        place = self._place(path)
        try:
            with remote_explained("remove", self._shown(path)):
                self._system.rm_file(place)
        except FileNotFoundError:
            return

    def prune(self, folder: str) -> None:
        """Do nothing: folders are only prefixes of names."""

    @property
    def _system(self) -> Any:
        # A forked process must not share its parent's connections.
        if self._process != os.getpid():
            self._connection, _ = self._connect()
            self._process = os.getpid()
        return self._connection

    def _connect(self) -> tuple[Any, str]:
        is_s3 = self._protocol in S3_PROTOCOLS
        try:
            system, root = fsspec.core.url_to_fs(self.url, **(connection_options() if is_s3 else {}))
        except (ValueError, ImportError) as error:
            fix = "pip install 'cmrm[s3]'" if is_s3 else f"install the fsspec package for {self._protocol}://"
            raise StoreError(
                f"cannot open the store {self.url}: {error}. To go on, {fix}, or give a folder on a disk"
            ) from error
        if is_s3:
            system.retries = ROUNDS
        return system, root.rstrip("/")

    def _read_start(self, path: str) -> bytes:
        try:
            with remote_explained("read", self._shown(path)):
                data: bytes = self._system.cat_file(self._place(path), start=0, end=LEAST_PREFETCH)
        except StoreError as error:
            if error_code(error) == "InvalidRange":
                return b""  # S3 rejects a range of an empty file
            raise
        return data

    def _fetch(self, path: str, start: int, end: int) -> bytes:
        with explained("read", self._shown(path)), remote_explained("read", self._shown(path)):
            data: bytes = self._system.cat_file(self._place(path), start=start, end=end)
        if len(data) != end - start:
            raise StoreError(
                f"cannot read {self._shown(path)}: {len(data)} bytes came where {end - start} were asked for. "
                "Give the same command again; if it recurs, check the proxies between this machine and the store"
            )
        return data

    def _data_or_none(self, path: str, answer: bytes | Exception) -> bytes | None:
        try:
            with remote_explained("read", self._shown(path)):
                if isinstance(answer, Exception):
                    raise answer
        except FileNotFoundError:
            return None
        return answer

    def _place(self, path: str) -> str:
        return f"{self._root}/{check_file(path)}"

    def _shown(self, path: str) -> str:
        return f"{self.url}/{path}"


def _is_plain(name: str) -> bool:
    """Whether a listed name can be a file of a store: buckets may contain placeholders and other objects."""
    try:
        return check_file(name) == name
    except StoreError:
        return False
