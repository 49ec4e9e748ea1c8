from __future__ import annotations

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, bootstrap

from cmrm.statistics.rates import Mean, Rate, bootstrap_mean, mean, paired_interval, recover_fractions


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


@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 10), (3, 10), (10, 10), (562, 888), (17, 100_000)]
)
def test_the_interval_is_scipys(successes, n):
    expected = binomtest(successes, n).proportion_ci(confidence_level=0.95, method="wilson")
    assert Rate(successes=successes, n=n).interval == pytest.approx((expected.low, expected.high), abs=1e-14)


def test_a_mean_prints_with_its_bootstrap_interval():
    assert str(Mean(value=6.254, low=5.9, high=6.6, n=30)) == "6.25 [5.90, 6.60]"
    assert str(Mean.of([])) == "not measured"
    assert str(Mean.of([7.0])) == "7.00"


def test_the_interval_of_a_mean_nears_that_of_the_normal_law():
    scores = np.random.default_rng(5).normal(loc=6.0, scale=2.0, size=500)
    found = Mean.of(scores)
    error = 1.96 * scores.std(ddof=1) / math.sqrt(500)
    assert (found.value, found.n) == (pytest.approx(scores.mean()), 500)
    assert (found.low, found.high) == (
        pytest.approx(scores.mean() - error, abs=0.02),
        pytest.approx(scores.mean() + error, abs=0.02),
    )


def test_the_interval_of_skewed_scores_leans_further_to_their_tail_than_plain_percentiles():
    scores = np.random.default_rng(7).exponential(size=30)
    found = Mean.of(scores)
    drawn = np.random.default_rng(8).choice(scores, size=(20_000, 30)).mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    # Acceleration is the skewness over 6√n (Efron 1987); with no bias it moves the tails to these percentiles.
    skewness = ((scores - scores.mean()) ** 3).mean() / scores.std() ** 3
    acceleration = skewness / (6 * math.sqrt(30))
    moved = [50 * math.erfc(-z / (1 - acceleration * z) / math.sqrt(2)) for z in (-1.96, 1.96)]
    assert (found.low, found.high) == tuple(
        pytest.approx(limit, abs=0.02) for limit in np.percentile(drawn, moved)
    )
    assert found.low > low + 0.02
    assert found.high > high + 0.02


def test_no_scores_and_one_score_have_no_interval():
    assert Mean.of([]) == Mean(value=None, low=None, high=None, n=0)
    assert Mean.of([3.5]) == Mean(value=3.5, low=None, high=None, n=1)


@pytest.mark.parametrize("score", [0.0, 0.1, 1e300, -5e-324])
def test_equal_scores_have_an_interval_of_no_width(score):
    assert Mean.of([score] * 7) == Mean(value=score, low=score, high=score, n=7)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="score is nan"):
        Mean.of([1.0, math.nan])
    with pytest.raises(ValueError, match="score is inf"):
        Mean.of([math.inf])


def test_scores_give_the_same_interval_each_time_and_in_any_order():
    scores = list(np.random.default_rng(6).normal(size=25))
    assert bootstrap_mean(scores) == bootstrap_mean(scores) == bootstrap_mean(scores[::-1])


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.floats(-1e100, 1e100), min_size=2, max_size=12))
def test_the_interval_of_a_mean_holds_it_and_lies_among_the_scores(scores):
    found = Mean.of(scores)
    assert min(scores) <= found.low <= found.high <= max(scores)
    slack = 1e-9 * max(map(abs, scores))
    assert found.low - slack <= found.value <= found.high + slack


@settings(derandomize=True, deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 10), min_size=2, max_size=12), st.sampled_from([1e-200, 0.5, 1e100]))
def test_the_interval_of_a_mean_follows_the_unit_of_the_scores(scores, unit):
    low, high = bootstrap_mean(scores)
    assert bootstrap_mean([unit * score for score in scores]) == (
        pytest.approx(unit * low, rel=1e-9, abs=1e-9 * unit),
        pytest.approx(unit * high, rel=1e-9, abs=1e-9 * unit),
    )


def ask_scipy(counts):
    """The interval of the mean of whole numbers: their sums are exact, whatever the order they are added in."""
    sums = bootstrap(
        (np.sort(np.asarray(counts, dtype=np.float64)),),
        np.sum,
        n_resamples=9_999,
        method="BCa",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return sums.low / len(counts), sums.high / len(counts)


@pytest.mark.parametrize(
    "counts",
    [
        # Each has a limit of exactly 0: rounding left 2.2e-16, 6.3e-13 and so on, and excluded it.
        [1, 0, 2, 1, -2, -1, 1, 2, 3, 1, 2, -2, 3, 3, 0, 0, -3, 0, 1, 3, 2],
        [-3, 1, -2, -1, 1, -1, -3, 1, 1, -2, -1, -2, 2, 0, 2, -2, -3, -1, -1],
        [0, 0, -1, -1, 0],
    ],
)
@pytest.mark.parametrize("unit", [1, 10, 3])
def test_a_limit_of_zero_is_exactly_zero_as_scipys_is(counts, unit):
    low, high = ask_scipy(counts)
    assert 0.0 in (low, high)
    found = bootstrap_mean([count / unit for count in counts])
    assert found == (pytest.approx(low / unit, rel=1e-15), pytest.approx(high / unit, rel=1e-15))
    assert [limit == 0.0 for limit in found] == [limit == 0.0 for limit in (low, high)]


@settings(derandomize=True, deadline=None, max_examples=30)
@given(
    st.lists(st.integers(-5, 5), min_size=2, max_size=25).filter(lambda counts: len(set(counts)) > 1),
    st.sampled_from([1, 7, 10, 1000]),
)
def test_the_interval_of_a_mean_is_scipys_on_whole_numbers(counts, unit):
    low, high = ask_scipy(counts)
    expected = tuple(float(Fraction(float(limit)) / unit) for limit in (low, high))
    assert bootstrap_mean([count / unit for count in counts]) == pytest.approx(expected, rel=1e-14, abs=0)


def test_an_interval_of_scores_without_a_common_unit_keeps_zero_and_ties():
    # No double counts these in one unit; half of the resamples of opposite scores add up to 0 and more.
    scores = [math.pi, -math.pi, math.e, -math.e, 0.0, 0.0]
    low, high = bootstrap_mean(scores)
    assert low == -high
    assert (
        bootstrap_mean([0.0] * 30 + [math.pi, -math.e])[0] < 0.0 < bootstrap_mean([0.0] * 30 + [math.pi])[1]
    )
    assert bootstrap_mean([0.0] * 30 + [math.pi / 7])[0] == 0.0


def test_a_mean_is_that_of_what_the_scores_stand_for_rounded_once():
    assert 0.1 + 0.2 - 0.3 != 0.0
    assert mean([0.1, 0.2, -0.3]) == 0.0
    assert mean([0.1] * 10) == 0.1
    assert mean([1 / 3, 1 / 3, -2 / 3]) == 0.0
    assert mean([1e16, 1.0, -1e16]) == 1 / 3
    with pytest.raises(ValueError, match="score is nan"):
        mean([math.nan])


@pytest.mark.parametrize(
    ("score", "fraction"),
    [
        (0.1, Fraction(1, 10)),
        (2 / 3, Fraction(2, 3)),
        # 2 · precision · recall / (precision + recall) of 2/3 and 2/5 rounds on its way to one half.
        (math.nextafter(0.5, 0), Fraction(1, 2)),
        (-1234.5678, Fraction(-12345678, 10_000)),
        (1e-200, Fraction(1, 10**200)),
        (5e-324, Fraction(5e-324)),
        (math.pi, Fraction(math.pi)),
        (0.0, Fraction(0)),
    ],
)
def test_a_score_stands_for_the_simple_fraction_that_differs_by_rounding_alone(score, fraction):
    assert recover_fractions([score, score]) == [fraction, fraction]


def test_two_rates_on_the_same_samples_differ_within_newcombes_interval():
    # Newcombe 1998, Statistics in Medicine 17:2635, table III, method 10, to its four places.
    assert paired_interval(both=36, first_only=12, second_only=2, neither=0) == (
        pytest.approx(0.0569, abs=5e-5),
        pytest.approx(0.3404, abs=5e-5),
    )
    with pytest.raises(ValueError, match="n > 0"):
        paired_interval(both=0, first_only=0, second_only=0, neither=0)


def test_uncorrelated_rates_differ_within_the_square_and_add_limits():
    # φ = 0, so the limits are change ∓ √(sum of the squared Wilson margins), and Wilson's for 10 of 20 are
    # 0.5 ∓ 1.959964/2/√(20 + 3.841459).
    margin = 1.959964 / 2 / math.sqrt(20 + 3.841459)
    assert paired_interval(both=5, first_only=5, second_only=5, neither=5) == (
        pytest.approx(-math.sqrt(2) * margin, abs=1e-6),
        pytest.approx(math.sqrt(2) * margin, abs=1e-6),
    )


def test_statistics_load_no_heavy_library_until_they_are_asked():
    code = (
        "import sys, cmrm.statistics.rates, cmrm.statistics.paired_tests\n"
        "print([name for name in ('scipy', 'statsmodels', 'sklearn', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
