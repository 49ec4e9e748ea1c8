"""Where the numbers of a column chunk begin is told for what this writer makes of an array, and for nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from storage.tables.vector_pages import count_bytes_before, encode_vectors, find_numbers


def encode(rows: int, width: int) -> tuple[np.ndarray, bytes]:
    vectors = np.random.default_rng(0).standard_normal((rows, width)).astype(np.float16)
    return vectors, b"".join(bytes(one) for one in encode_vectors(vectors, "vector").buffers)


@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (5, 4), (200, 130), (2, 70_000)])
def test_numbers_begin_where_the_first_bytes_say(shape: tuple[int, int]) -> None:
    vectors, data = encode(*shape)
    start = find_numbers(data[: count_bytes_before(*shape)], shape)
    assert start is not None
    assert data[start:] == vectors.tobytes()


def test_any_other_header_or_level_is_not_taken_for_ours() -> None:
    _, data = encode(5, 4)
    start = find_numbers(data, (5, 4))
    assert start is not None
    taken = []
    for place in range(start):
        changed = bytearray(data)
        changed[place] ^= 1
        if find_numbers(bytes(changed), (5, 4)) is not None:
            taken.append(place)
    # The checksum, which is not verified, is five bytes of the header; the high bits of each say whether one follows.
    assert len(taken) <= 5
    assert find_numbers(data, (4, 5)) is None
    assert find_numbers(data[: start - 1], (5, 4)) is None
    assert find_numbers(b"", (5, 4)) is None
