"""Δ before and after, block by block."""

from __future__ import annotations

import numpy as np
import pytest

from cmrm.steering.shift_changes import compare_blocks


def test_the_cosine_and_both_lengths_are_those_of_the_vectors() -> None:
    before = {3: np.array([3.0, 4.0]), 0: np.array([1.0, 0.0])}
    after = {0: np.array([0.0, -2.0]), 3: np.array([-6.0, -8.0])}
    first, second = compare_blocks(before, after)
    assert (first.block, first.cosine, first.before, first.after) == (0, 0.0, 1.0, 2.0)
    assert (second.block, second.cosine, second.before, second.after) == (3, -1.0, 5.0, 10.0)


def test_a_vector_without_length_has_no_direction() -> None:
    (found,) = compare_blocks({0: np.zeros(3)}, {0: np.ones(3)})
    assert found.cosine is None
    assert found.before == 0.0


def test_lengths_near_the_ends_of_single_precision_keep_their_cosine() -> None:
    huge, tiny = np.full(4, 3e38, dtype=np.float32), np.full(4, 1e-40, dtype=np.float32)
    (found,) = compare_blocks({0: huge}, {0: tiny})
    assert found.cosine == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({0: np.ones(3), 1: np.ones(3)}, "2 vectors"),
        ({1: np.ones(3)}, "blocks 1 to 1"),
        ({0: np.ones(4)}, "width 4"),
        ({}, "no block"),
        ({0: np.array([1.0, np.nan, 1.0])}, "not finite at block 0"),
    ],
)
def test_what_cannot_be_compared_is_said(after: dict[int, np.ndarray], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare_blocks({0: np.ones(3)}, after)
