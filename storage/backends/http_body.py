"""Receive a response over HTTP by a deadline and at a least rate, whatever its server drips, and undo gzip."""

from __future__ import annotations

import gzip
import http.client
import io
import math
import socket
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from storage.backends.http_limits import (
    LateError,
    Limits,
    NoAnswerError,
    RemoteFileError,
    TemporaryError,
    explaining,
)
from storage.errors import explained

_CHUNK = 1 << 18
_MIB = 2**20
# Servers name the compression of such a file as the coding of the response.
_COMPRESSED = (".gz", ".zst", ".zip")
_CODINGS = frozenset(("gzip", "x-gzip"))


@dataclass(frozen=True, kw_only=True)
class HeadDeadline:
    """When a host must have sent the head of its response, by the monotonic clock."""

    host: str
    at: float
    limits: Limits

    def count_left(self) -> float:
        """Count the seconds left; raises `LateError` if there are none."""
        if (left := self.at - time.monotonic()) <= 0:
            raise self.say_late()
        return left

    def say_late(self) -> LateError:
        """Make the error for a head that is not there in time."""
        return LateError(f"{self.host} has not sent the head of its answer in {self.limits.head:g} s")


class TimedResponse(http.client.HTTPResponse):
    """A response, every read of whose socket is bounded: a timeout of each read alone never ends for one that drips."""

    def __init__(self, sock: socket.socket, *_: Any, until: HeadDeadline, **more: Any) -> None:
        super().__init__(sock, **more)
        self.host, self.limits = until.host, until.limits
        self._timed = _TimedReader(sock, until)
        self.fp.close()
        self.fp = io.BufferedReader(self._timed)

    def begin_body(self, where: str) -> None:
        """Bound what follows by the limits of a body; `where` names the file in errors."""
        self._timed.begin_body(where)


class _TimedReader(io.RawIOBase):
    """The bytes of a socket, by the deadline of a head until `begin_body`, and then within the limits of a body."""

    def __init__(self, sock: socket.socket, until: HeadDeadline) -> None:
        self._sock, self._raw = sock, sock.makefile("rb", buffering=0)
        self._limits, self._host = until.limits, until.host
        self._deadline, self._late = until.at, until.say_late()
        self._begun: float | None = None
        self._received = 0
        self._where = ""

    def begin_body(self, where: str) -> None:
        self._begun, self._where = time.monotonic(), where
        longest = math.inf if self._limits.longest is None else self._limits.longest
        self._deadline = self._begun + longest
        self._late = LateError(f"{where}: {self._host} has not sent all of it in {longest:g} s")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise self._late
        self._sock.settimeout(min(self._limits.read, left))
        try:
            count = self._raw.readinto(buffer) or 0
        except TimeoutError:
            if left <= self._limits.read:
                raise self._late from None
            raise
        self._received += count
        self._refuse_slow()
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()

    def _refuse_slow(self) -> None:
        if self._begun is None:
            return
        taken, least = time.monotonic() - self._begun, self._limits.least_rate
        if taken > self._limits.read and self._received < taken * least:
            raise LateError(f"{self._where}: {self._host} sends less than {least} bytes a second")


def copy_body(answer: TimedResponse, into: IO[bytes], *, most: int, where: str) -> None:
    """Write a response's body, without gzip, aborting once it is too long, too slow or not as announced."""
    coding = answer.headers.get("Content-Encoding", "identity").strip().lower()
    is_plain = coding == "identity" or where.lower().endswith(_COMPRESSED)
    if not is_plain and coding not in _CODINGS:
        raise RemoteFileError(
            f"{where}: {answer.host} sends it compressed ({coding[:20]}), though asked not to"
        )
    announced = answer.length
    if announced is not None and announced > most:
        raise RemoteFileError(f"{where} has {announced:,} bytes, more than {most / _MIB:g} MiB")
    answer.begin_body(where)
    size = 0
    source = answer if is_plain else gzip.GzipFile(fileobj=answer)
    while True:
        with explaining(answer.host, answer.limits), _explaining_gzip(answer.host, where):
            # One read of the socket at most, so that a limit is noticed.
            chunk = source.read1(_CHUNK)
        if not chunk:
            break
        size += len(chunk)
        if size > most:
            raise RemoteFileError(f"{where} has more than {most / _MIB:g} MiB")
        with explained("write", where):
            into.write(chunk)
    if announced is not None and answer.length:
        raise TemporaryError(
            NoAnswerError(
                f"{where}: {answer.host} hung up after {announced - answer.length:,} of {announced:,} bytes"
            )
        )


@contextmanager
def _explaining_gzip(host: str, where: str) -> Iterator[None]:
    try:
        yield
    except EOFError:
        raise TemporaryError(NoAnswerError(f"{where}: {host} hung up in the middle of it")) from None
    except (gzip.BadGzipFile, zlib.error):
        raise RemoteFileError(
            f"{where}: {host} says that it is compressed by gzip, and it is not or is damaged"
        ) from None
