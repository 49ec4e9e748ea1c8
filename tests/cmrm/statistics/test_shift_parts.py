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


def test_intervals_are_percentiles_of_resampled_anchors_less_what_resampling_adds() -> None:
    found = measure_parts(WHOLE, {"first": FIRST})["first"]
    chance = np.random.default_rng(2)
    rows = chance.integers(0, COUNT, size=(4_000, COUNT))
    products = {}
    for name, (one, other) in {
        "along": (FIRST, WHOLE),
        "part": (FIRST, FIRST),
        "whole": (WHOLE, WHOLE),
    }.items():
        resampled = (one[rows].mean(axis=1) * other[rows].mean(axis=1)).sum(axis=1)
        # The mean over resamples has 1 / COUNT of the covariance of the anchors more than the observed product.
        covariance = (one * other).mean(axis=0) - one.mean(axis=0) * other.mean(axis=0)
        products[name] = resampled - 2 * covariance.sum() / COUNT
    shares = products["along"] / products["whole"]
    cosines = products["along"] / np.sqrt(products["part"] * products["whole"])
    for interval, expected, within in ((found.share, shares, 0.03), (found.cosine, cosines, 0.005)):
        low, high = np.percentile(expected, [2.5, 97.5])
        assert interval.low == pytest.approx(low, abs=within)
        assert interval.high == pytest.approx(high, abs=within)
    assert found.norm.low < found.norm.value < found.norm.high


@pytest.mark.parametrize("count", [12, 60])
@pytest.mark.parametrize(("truth", "together"), [(0.05, 0.7), (0.95, 0.0), (0.95, 0.7)])
def test_intervals_of_shares_and_cosines_hold_the_truth_though_anchors_differ(
    count: int, truth: float, together: float
) -> None:
    # What differs between anchors is as long as Δ itself; plain percentiles hold less than half of these shares.
    chance, width = np.random.default_rng(7), 128
    delta, part = np.eye(width)[0], truth * np.eye(width)[0] + 0.5 * np.eye(width)[1]
    cosine = truth / np.hypot(truth, 0.5)
    hits = {"share": 0, "other": 0, "cosine": 0}
    for _ in range(25):
        own, other = 1.5 * chance.normal(0, width**-0.5, size=(2, count, width))
        whole, first = delta + own, part + together * own + np.sqrt(1 - together**2) * other
        found = measure_parts(whole, {"first": first, "second": whole - first})
        share, second, angle = found["first"].share, found["second"].share, found["first"].cosine
        assert share.value + second.value == pytest.approx(1.0)
        assert share.low <= share.value <= share.high
        hits["share"] += share.low <= truth <= share.high
        hits["other"] += second.low <= 1 - truth <= second.high
        hits["cosine"] += angle.low <= cosine <= angle.high
    assert min(hits.values()) >= 21, hits


def test_a_shift_that_noise_explains_has_shares_without_an_interval() -> None:
    drawn = np.random.default_rng(3).normal(size=(2, 20, 300))
    found = measure_parts(drawn[0], {"first": drawn[1]})["first"]
    assert found.share.value == pytest.approx(
        drawn[0].mean(axis=0) @ drawn[1].mean(axis=0) / np.linalg.norm(drawn[0].mean(axis=0)) ** 2
    )
    assert (found.share.low, found.share.high) == (None, None)
    assert (found.cosine.low, found.cosine.high) == (-1.0, 1.0)


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
