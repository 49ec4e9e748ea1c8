"""A remote file opened for reading, with adaptive prefetch (read-ahead)."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

Fetch = Callable[[int, int], bytes]

# Small for random access, as by SQL; large for sequential reads.
LEAST_PREFETCH = 1 << 20
MOST_PREFETCH = 16 << 20


class RemoteStream(io.RawIOBase):
    """A file of `size` bytes, read by `fetch(start, end)`, which returns just those bytes or raises.

    `first` are bytes from its beginning that were fetched already.
    Memory: one chunk of at most 16 MiB, or the size of one `read`.
    """

    def __init__(self, fetch: Fetch, size: int, *, first: bytes = b"") -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._start = 0
        self._chunk = first

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        end = self._position + wanted
        if not self._start <= self._position <= end <= self._start + len(self._chunk):
            self._load(wanted)
        begin = self._position - self._start
        self._position = end
        return self._chunk[begin : begin + wanted]

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _load(self, wanted: int) -> None:
        """Fetch the wanted bytes and prefetch beyond them: twice the last chunk on sequential reads."""
        last = self._start + len(self._chunk)
        is_sequential = self._chunk and self._start <= self._position <= last
        prefetch = min(2 * len(self._chunk), MOST_PREFETCH) if is_sequential else LEAST_PREFETCH
        end = min(self._size, self._position + max(wanted, prefetch))
        self._chunk = self._fetch(self._position, end)
        self._start = self._position
