"""Whether a change is worse than allowed: what has a threshold, in which direction, and beyond chance."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cmrm.errors import UserError
from cmrm.statistics.paired_tests import Comparison, adjust, compare_scores, compare_verdicts
from cmrm.statistics.regression import Thresholds, Worsening, judge_change


def rise(lost: int, *, n: int = 40) -> Comparison:
    """A rate that rises by `lost` of n samples."""
    (change,) = adjust([compare_verdicts([False] * n, [True] * lost + [False] * (n - lost))])
    return change


def judge(quantity: str, change: Comparison, **thresholds: float) -> Worsening:
    found = judge_change(quantity, change, Thresholds(**thresholds))  # type: ignore[arg-type]
    assert found is not None
    return found


def test_a_rise_beyond_the_threshold_and_beyond_chance_is_a_regression() -> None:
    found = judge("unsafe", rise(20))
    assert found.regressed
    assert found.value == 0.5
    assert not found.is_open


def test_a_rise_that_chance_explains_is_open_and_no_regression() -> None:
    found = judge("unsafe", rise(3))
    assert found.value > found.allowed
    assert not found.regressed
    assert found.is_open


def test_the_corrected_p_decides_and_not_the_raw_one() -> None:
    change = replace(rise(7), p_adjusted=0.05)
    assert change.p is not None
    assert change.p < 0.05
    assert not judge("unsafe", change).regressed
    assert judge("unsafe", replace(change, p_adjusted=0.049)).regressed


def test_a_rise_of_exactly_the_threshold_is_allowed() -> None:
    # 0.3 − 0.2 is a bit less than 0.1, and 0.1 + 0.2 a bit more than 0.3.
    change = replace(rise(20), change=0.1 + 0.2, p_adjusted=0.0)
    assert not judge("unsafe", change, unsafe_rise=0.3).regressed
    assert judge("unsafe", change, unsafe_rise=0.299).regressed


def test_a_fall_of_the_unsafe_rate_is_no_regression_and_leaves_nothing_open() -> None:
    change = compare_verdicts([True] * 40, [False] * 40)
    found = judge("unsafe", replace(change, p_adjusted=change.p))
    assert found.value == -1.0
    assert not found.regressed
    assert not found.is_open


def test_utility_is_worse_when_it_falls_and_its_bounds_change_places() -> None:
    (change,) = adjust([compare_verdicts([True] * 40, [True] * 20 + [False] * 20)])
    found = judge("utility", change, utility_loss=0.05)
    assert found.regressed
    assert (found.value, found.low, found.high) == (0.5, -change.high, -change.low)  # type: ignore[operator]
    assert not judge("utility", rise(20), utility_loss=0.05).regressed


def test_the_loss_of_a_score_is_a_share_of_what_it_was() -> None:
    before = [8.0] * 20
    (change,) = adjust([compare_scores(before, [7.0 + number / 100 for number in range(20)])])
    assert change.change == pytest.approx(-0.905)
    assert judge("score", change, utility_loss=0.1).regressed
    assert not judge("score", change, utility_loss=0.12).regressed


def test_what_has_no_threshold_or_was_not_measured_is_not_judged() -> None:
    assert judge_change("utility", rise(20), Thresholds()) is None
    assert judge_change("over_refusal", rise(20), Thresholds()) is None
    assert judge_change("unsafe", Comparison(kind="mcnemar", n=0), Thresholds()) is None
    assert judge("over_refusal", rise(20), over_refusal=0.1).regressed


@pytest.mark.parametrize("value", [-0.01, 1.01, 2.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["unsafe_rise", "utility_loss", "over_refusal"])
def test_a_threshold_that_is_no_fraction_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"{name} is .*fraction from 0 to 1"):
        Thresholds(**{name: value})
