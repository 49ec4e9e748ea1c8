"""An open file that several threads can seek and read concurrently."""

from __future__ import annotations

import io
import os
import threading
from typing import IO


class SharedReader(io.RawIOBase):
    """A stream whose `seek` applies to the calling thread's next `read` alone.

    DuckDB 2.0 lets several threads seek and read on one Python file, in two steps: with a shared position, one thread
    would read where another has just sought. Reads without a seek continue from the last read.
    It also drops files without closing them, which closes this one.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        super().__init__()
        self._stream = stream
        self._own = threading.local()
        self._lock = threading.Lock()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_CUR:
            offset += self.tell()
        elif whence == os.SEEK_END:
            offset += self._size()
        self._own.target = offset
        return offset

    def tell(self) -> int:
        target: int | None = getattr(self._own, "target", None)
        return self._position if target is None else target

    def read(self, size: int = -1) -> bytes:
        start = self.tell()
        self._own.target = None
        data = self._at(start, self._size() - start if size < 0 else size)
        self._position = start + len(data)
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()

    def _at(self, start: int, size: int) -> bytes:
        # Storage may return fewer bytes than requested.
        pieces: list[bytes] = []
        while size > 0 and (piece := self._once(start, size)):
            pieces.append(piece)
            start, size = start + len(piece), size - len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _once(self, start: int, size: int) -> bytes:
        try:
            return os.pread(self._stream.fileno(), size, start)
        except (AttributeError, io.UnsupportedOperation):
            with self._lock:
                self._stream.seek(start)
                return self._stream.read(size)

    def _size(self) -> int:
        with self._lock:
            return self._stream.seek(0, os.SEEK_END)
