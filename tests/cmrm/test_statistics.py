from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmrm.statistics import Rate


def test_a_rate_prints_with_its_wilson_interval():
    # By hand, z = 1.959964: centre (p + z²/2n) / (1 + z²/n), half-width z/(1 + z²/n) · √(p(1−p)/n + z²/4n²).
    assert str(Rate(successes=546, n=888)) == "61.5 % [58.2, 64.6]"
    assert Rate(successes=546, n=888).interval == pytest.approx((0.58241, 0.64631), abs=1e-4)


def test_no_trials_are_not_measured():
    rate = Rate(successes=0, n=0)
    assert (rate.value, rate.interval, str(rate)) == (None, None, "not measured")


def test_no_success_still_leaves_doubt():
    assert str(Rate(successes=0, n=10)) == "0.0 % [0.0, 27.8]"


def test_outcomes_are_counted():
    assert Rate.of([True, False, True]) == Rate(successes=2, n=3)
    assert Rate.of([]) == Rate(successes=0, n=0)


@pytest.mark.parametrize(("successes", "n"), [(-1, 3), (4, 3), (1, 0)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match="impossible"):
        Rate(successes=successes, n=n)


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_rate_and_stays_a_probability(counts):
    successes, n = counts
    rate = Rate(successes=successes, n=n)
    low, high = rate.interval
    assert 0.0 <= low <= rate.value + 1e-12
    assert rate.value - 1e-12 <= high <= 1.0
