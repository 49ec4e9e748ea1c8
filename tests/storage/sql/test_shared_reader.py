"""A file that threads share gives each what it asked for."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from storage.sql.shared_reader import SharedReader

DATA = bytes(range(256)) * 400


class Slow(io.BytesIO):
    """A stream that hands out at most 1,000 bytes at a time."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 1000))


@pytest.fixture(params=["file", "memory", "slow"])
def stream(request: pytest.FixtureRequest, tmp_path: Path) -> IO[bytes]:
    """A file on the disk, bytes in memory, or a stream that gives little at a time."""
    make: dict[str, Callable[[], IO[bytes]]] = {
        "file": lambda: (tmp_path / "data").open("rb"),
        "memory": lambda: io.BytesIO(DATA),
        "slow": lambda: Slow(DATA),
    }
    (tmp_path / "data").write_bytes(DATA)
    return make[request.param]()


def test_reads_go_on_from_the_last_one_and_seeks_move(stream):
    with SharedReader(stream) as reader:
        assert reader.read(3) + reader.read(3) == DATA[:6]
        assert reader.seek(-6, os.SEEK_END) == len(DATA) - 6
        assert reader.seek(1, os.SEEK_CUR) == reader.tell() == len(DATA) - 5
        assert reader.read() == DATA[-5:]
        assert reader.read(10) == b""
        assert reader.seek(5) == 5
        assert reader.read(5000) == DATA[5:5005]
    assert stream.closed


def test_a_seek_of_another_thread_does_not_move_this_one(stream):
    with SharedReader(stream) as reader:
        reader.seek(100)
        other = threading.Thread(target=reader.seek, args=(200,))
        other.start()
        other.join()
        assert reader.read(2) == DATA[100:102]


def test_threads_that_seek_and_read_at_once_get_what_they_asked_for(stream):
    with SharedReader(stream) as reader:

        def take(start: int) -> bool:
            reader.seek(start)
            return reader.read(777) == DATA[start : start + 777]

        with ThreadPoolExecutor(8) as threads:
            assert all(threads.map(take, range(0, 100_000, 97)))
