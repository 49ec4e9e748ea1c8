"""A file that is hashed as it is written, so that nothing has to read it again before it counts."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# Parquet hands over mebibytes of vectors and dozens of bytes of other columns: these wait for those.
_PIECE = 1 << 20
# Enough to keep both threads busy, and little memory.
_AHEAD = 8


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """A finished file at a place that nobody looks at yet: its size in bytes, sha256 and rows."""

    path: Path
    bytes: int
    sha256: str
    rows: int | None = None


class HashingSink(io.RawIOBase):
    """A file opened for writing; a thread of its own hashes and writes what it is given, in order.

    An error of the disk surfaces as OSError in a later `write` or in `close`, which also puts the file on the disk.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._file = path.open("wb")
        self._sha256 = hashlib.sha256()
        self._size = 0
        self._piece = bytearray()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="cmrm-sink")
        self._pending: deque[Future[None]] = deque()

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, data: object) -> int:
        view = memoryview(data).cast("B")  # type: ignore[arg-type] # any buffer
        # A copy, since the caller may use its buffer again as soon as this returns.
        self._piece += view
        self._size += len(view)
        if len(self._piece) >= _PIECE:
            self._hand_over()
        return len(view)

    def close(self) -> None:
        if self.closed:
            return
        try:
            self._hand_over()
            while self._pending:
                self._pending.popleft().result()
            self._file.flush()
            os.fsync(self._file.fileno())
        finally:
            self._thread.shutdown()
            self._file.close()
            super().close()

    def written(self, *, rows: int | None = None) -> WrittenFile:
        """Describe the file, once it is closed."""
        return WrittenFile(path=self.path, bytes=self._size, sha256=self._sha256.hexdigest(), rows=rows)

    def _hand_over(self) -> None:
        while len(self._pending) >= _AHEAD:
            self._pending.popleft().result()
        piece, self._piece = self._piece, bytearray()
        self._pending.append(self._thread.submit(self._put, piece))

    def _put(self, data: bytearray) -> None:
        self._sha256.update(data)
        self._file.write(data)
