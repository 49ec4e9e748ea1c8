"""A file that is hashed while it is written, so that it need not be read again for its checksum."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

# Parquet writes mebibytes of vectors and dozens of bytes of other columns: small writes are buffered.
_CHUNK = 1 << 20
# Chunks queued for the background thread: enough to keep both threads busy, with little memory.
_MOST_QUEUED = 8

T = TypeVar("T")

# What is hashed and written as it is; a memoryview is one of bytes.
Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A finished scratch file: its size in bytes, sha256 and rows."""

    path: Path
    bytes: int
    sha256: str
    rows: int | None = None


class HashingSink(io.RawIOBase):
    """A file opened for writing; a background thread hashes and writes the data, in order.

    A write error is raised as OSError in a later `write` or in `close`, which also syncs the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._chunk = bytearray()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cmrm-sink")
        self._pending: deque[Future[None]] = deque()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type] # any buffer
        # A copy, since the caller may use its buffer again as soon as this returns.
        self._chunk += view
        self._size += len(view)
        if len(self._chunk) >= _CHUNK:
            self._submit_chunk()
        return len(view)

    def give(self, data: Buffer) -> None:
        """Write data that nobody will change any more: it is not copied."""
        self._size += len(data)
        self._submit_chunk(data)

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._submit_chunk()
            self._sync()
        finally:
            self._thread.shutdown()
            self._end()

    def close_later(self, then: Callable[[WrittenFile], T], *, rows: int) -> Future[T]:
        """Sync and close the file in the background, and call `then` with it there; after a fault it is removed.

        Nothing may be written meanwhile.
        """
        self._submit_chunk()
        closing = self._thread.submit(self._conclude, then, rows)
        self._thread.shutdown(wait=False)
        return closing

    def written(self, *, rows: int | None = None) -> WrittenFile:
        """Describe the file, once it is closed."""
        return WrittenFile(path=self.path, bytes=self._size, sha256=self._sha256.hexdigest(), rows=rows)

    def _conclude(self, then: Callable[[WrittenFile], T], rows: int) -> T:
        try:
            try:
                self._sync()
            finally:
                self._end()
            return then(self.written(rows=rows))
        except BaseException:
            self.path.unlink(missing_ok=True)
            raise

    def _sync(self) -> None:
        while self._pending:
            self._pending.popleft().result()
        self._file.flush()
        os.fsync(self._file.fileno())

    def _end(self) -> None:
        try:
            self._file.close()
        finally:
            # Otherwise a second close, after a full disk, would submit to a thread that has ended.
            super().close()

    def _submit_chunk(self, *more: Buffer) -> None:
        while len(self._pending) >= _MOST_QUEUED:
            self._pending.popleft().result()
        chunk, self._chunk = self._chunk, bytearray()
        self._pending.append(self._thread.submit(self._put, chunk, *more))

    def _put(self, *pieces: Buffer) -> None:
        for piece in pieces:
            self._sha256.update(piece)
            self._file.write(piece)
