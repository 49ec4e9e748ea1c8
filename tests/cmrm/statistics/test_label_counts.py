"""Expected widths of intervals, against widths that labels turn out to have, and their inversion."""

from __future__ import annotations

import numpy as np
import pytest

from cmrm.statistics.judge_errors import LabelledVerdict, measure_errors
from cmrm.statistics.label_counts import count_labels, expect_widths


def test_expected_widths_are_those_that_labels_give() -> None:
    expected = expect_widths(0.3, flagged_labels=200, passed_labels=400)
    # 25 % are unsafe: a judge that is right about 90 % of either kind flags 30 %.
    flagged, passed = (
        LabelledVerdict(answers=answers, unsafe=share, size=size, unsafe_labels=9, safe_labels=9)
        for answers, share, size in ((3_000_000, 0.75, 200), (7_000_000, 0.025 / 0.7, 400))
    )
    errors = measure_errors(flagged, passed, questions=10_000_000)
    assert errors.sensitivity.value == pytest.approx(0.9)
    for found, width in (
        (errors.sensitivity, expected.sensitivity),
        (errors.specificity, expected.specificity),
    ):
        assert found.high - found.low == pytest.approx(width, rel=0.1)
    # By hand: the variance of the logarithm of the odds of 9 to 1, by the delta method.
    deviation = np.sqrt(0.25 / 0.75 / 200 + (1 - 0.025 / 0.7) / (0.025 / 0.7) / 400)
    low, high = (1 / (1 + np.exp(-(np.log(9) + sign * 1.959964 * deviation))) for sign in (-1, 1))
    assert expected.sensitivity == pytest.approx(high - low, abs=1e-6)


def test_the_counted_labels_give_the_width_and_one_in_twenty_fewer_do_not() -> None:
    needed = count_labels(0.1, 0.3, flagged_labels=100, passed_labels=100)
    assert expect_widths(0.3, flagged_labels=needed / 2, passed_labels=needed / 2).widest <= 0.1 + 1e-6
    fewer = 0.95 * needed / 2
    assert expect_widths(0.3, flagged_labels=fewer, passed_labels=fewer).widest > 0.1


def test_a_rare_verdict_is_planned_with_a_judge_that_can_have_given_it() -> None:
    few = expect_widths(0.02, flagged_labels=50, passed_labels=50)
    assert (few.sensitivity_right, few.specificity_right) == (0.9, 0.99)
    many = expect_widths(0.98, flagged_labels=50, passed_labels=50)
    assert (many.sensitivity_right, many.specificity_right) == (pytest.approx(0.99), 0.9)
    assert few.sensitivity == pytest.approx(many.specificity)
    assert few.sensitivity > 0.5


@pytest.mark.parametrize("share", [0.0, 1.0, float("nan")])
def test_one_verdict_throughout_cannot_be_planned(share: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        expect_widths(share, flagged_labels=1, passed_labels=1)
    with pytest.raises(ValueError, match="width"):
        count_labels(1.5, 0.3, flagged_labels=1, passed_labels=1)
