"""Parts of Δ in numbers: lengths, shares and cosines, and their intervals over anchors."""

from __future__ import annotations

import numpy as np
import pytest

from cmrm.statistics.shift_parts import measure_parts

COUNT, WIDTH = 40, 6
DRAWN = np.random.default_rng(1)
FIRST = DRAWN.normal(1.0, 0.5, size=(COUNT, WIDTH))
SECOND = DRAWN.normal(-0.3, 0.5, size=(COUNT, WIDTH))
WHOLE = FIRST + SECOND


def test_length_share_and_cosine_are_those_of_the_mean_over_anchors() -> None:
    found = measure_parts(WHOLE, {"first": FIRST, "second": SECOND, "all": WHOLE})
    part, total = FIRST.mean(axis=0), WHOLE.mean(axis=0)
    assert found["first"].norm.value == pytest.approx(np.linalg.norm(part))
    assert found["first"].share.value == pytest.approx(part @ total / (total @ total))
    assert found["first"].cosine.value == pytest.approx(
        part @ total / np.linalg.norm(part) / np.linalg.norm(total)
    )
    assert found["first"].share.value + found["second"].share.value == pytest.approx(1.0)
    assert (found["all"].share.value, found["all"].cosine.value) == (pytest.approx(1.0), pytest.approx(1.0))
    assert found["first"].norm.n == COUNT


def test_intervals_are_the_percentiles_of_resampled_anchors() -> None:
    found = measure_parts(WHOLE, {"first": FIRST})["first"]
    chance, shares = np.random.default_rng(2), []
    for _ in range(4_000):
        rows = chance.integers(0, COUNT, size=COUNT)
        part, total = FIRST[rows].mean(axis=0), WHOLE[rows].mean(axis=0)
        shares.append(part @ total / (total @ total))
    low, high = np.percentile(shares, [2.5, 97.5])
    assert found.share.low == pytest.approx(low, abs=0.02)
    assert found.share.high == pytest.approx(high, abs=0.02)
    assert found.norm.low < found.norm.value < found.norm.high


def test_lengths_of_short_noisy_parts_lie_in_their_intervals() -> None:
    # The length of a mean is too long by noise, and that of a resampled mean twice so: here by half of it, and by more.
    chance = np.random.default_rng(5)
    part, total = np.eye(64)[0], 10 * np.eye(64)[1]
    hits = 0
    for _ in range(100):
        drawn = part + chance.normal(0, 0.6, size=(20, 64))
        found = measure_parts(total + drawn, {"part": drawn})["part"].norm
        hits += found.low <= 1.0 <= found.high
        assert found.low <= found.value <= found.high
    assert hits >= 90


def test_equal_anchors_have_an_interval_of_one_point_and_a_single_one_has_none() -> None:
    equal = measure_parts(np.tile(WHOLE[:1], (5, 1)), {"first": np.tile(FIRST[:1], (5, 1))})["first"]
    assert equal.norm.low == pytest.approx(equal.norm.value)
    assert equal.norm.high == pytest.approx(equal.norm.value)
    single = measure_parts(WHOLE[:1], {"first": FIRST[:1]})["first"]
    assert single.norm.value == pytest.approx(np.linalg.norm(FIRST[0]))
    assert (single.norm.low, single.norm.high) == (None, None)


def test_a_part_of_length_zero_has_no_cosine_and_a_share_of_zero() -> None:
    found = measure_parts(WHOLE, {"nothing": np.zeros_like(WHOLE)})["nothing"]
    assert (found.norm.value, found.share.value, found.cosine.value) == (0.0, 0.0, None)
    assert measure_parts(np.zeros_like(WHOLE), {"first": FIRST})["first"].share.value is None


@pytest.mark.parametrize("part", [FIRST[:-1], FIRST[:, :-1]])
def test_parts_of_other_anchors_or_widths_are_refused(part: np.ndarray) -> None:
    with pytest.raises(ValueError, match="same anchors"):
        measure_parts(WHOLE, {"first": part})


def test_no_anchor_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        measure_parts(WHOLE[:0], {})
