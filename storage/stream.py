"""A remote file opened for reading, which fetches as much ahead as its reader goes on reading."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

Fetch = Callable[[int, int], bytes]

# Little for a reader that jumps about, as SQL does; much for one that goes through all of it.
LEAST_AHEAD = 1 << 20
MOST_AHEAD = 16 << 20


class RemoteStream(io.RawIOBase):
    """A file of `size` bytes, read by `fetch(start, end)`, which returns just those bytes or raises.

    `first` are bytes from its beginning that are known already.
    Memory: one piece of at most 16 MiB, or as much as one `read` asks for.
    """

    def __init__(self, fetch: Fetch, size: int, *, first: bytes = b"") -> None:
        super().__init__()
        self._fetch = fetch
        self._size = size
        self._position = 0
        self._start = 0
        self._piece = first

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
        if not self._start <= self._position <= end <= self._start + len(self._piece):
            self._load(wanted)
        begin = self._position - self._start
        self._position = end
        return self._piece[begin : begin + wanted]

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _load(self, wanted: int) -> None:
        """Fetch what is wanted and more behind it: twice the last piece where the reader goes straight on."""
        last = self._start + len(self._piece)
        goes_on = self._piece and self._start <= self._position <= last
        ahead = min(2 * len(self._piece), MOST_AHEAD) if goes_on else LEAST_AHEAD
        end = min(self._size, self._position + max(wanted, ahead))
        self._piece = self._fetch(self._position, end)
        self._start = self._position
