from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test
from statsmodels.stats.multitest import multipletests

from cmrm.statistics.paired_tests import (
    Agreement,
    Comparison,
    adjust,
    agree,
    compare_scores,
    compare_verdicts,
    correct_by_holm,
)

law = settings(derandomize=True, deadline=None, max_examples=60)
pairs_of_verdicts = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


def spread(both: int, gained: int, lost: int, neither: int) -> tuple[list[bool], list[bool]]:
    pairs = (
        [(True, True)] * both + [(False, True)] * gained + [(True, False)] * lost + [(False, False)] * neither
    )
    return [was for was, _ in pairs], [now for _, now in pairs]


def rate(table: list[list[int]]) -> tuple[list[int], list[int]]:
    pairs = [(i, j) for i, row in enumerate(table) for j, count in enumerate(row) for _ in range(count)]
    return [one for one, _ in pairs], [other for _, other in pairs]


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17:2635, table III, method 10.
        ((36, 12, 2, 0), 0.0569, 0.3404),
        # Fagerland, Lydersen and Laake, Recommended tests and confidence intervals for paired binomial proportions
        # (Statistics in Medicine 33, 2014): complete response before and after consolidation (Cavo et al. 2012).
        ((59, 6, 16, 80), -0.1186, -0.0046),
    ],
)
def test_the_interval_of_a_change_is_the_published_one(counts, low, high):
    found = compare_verdicts(*spread(*counts))
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_verdicts_are_counted_and_tested_by_the_exact_mcnemar_test():
    found = compare_verdicts(*spread(both=4, gained=1, lost=8, neither=7))
    # Of 9 changed verdicts at most 1 went one way: 2 · (C(9,0) + C(9,1)) / 2⁹.
    assert found.p == pytest.approx(2 * (1 + 9) / 2**9)
    assert (found.kind, found.n, found.gained, found.lost) == ("mcnemar", 20, 1, 8)
    assert (found.before, found.after) == (12 / 20, 5 / 20)
    assert found.change == pytest.approx(-7 / 20)


def test_verdicts_that_never_change_are_no_evidence_but_leave_doubt():
    found = compare_verdicts([True, False] * 5, [True, False] * 5)
    assert (found.change, found.p, found.gained, found.lost) == (0.0, 1.0, 0, 0)
    assert found.low < 0.0 < found.high


def test_no_samples_are_not_measured():
    assert compare_verdicts([], []) == Comparison(kind="mcnemar", n=0)
    assert compare_scores([], []) == Comparison(kind="bootstrap", n=0)
    assert agree([], []) == Agreement(n=0)


def test_samples_that_do_not_pair_are_refused():
    for compare in (compare_verdicts, compare_scores, agree):
        with pytest.raises(ValueError, match="cannot be paired"):
            compare([True], [True, False])


def test_a_verdict_that_could_not_be_read_is_refused_rather_than_counted_as_false():
    with pytest.raises(ValueError, match="verdict 1 of after is None"):
        compare_verdicts([True, True], [True, None])


@law
@given(pairs_of_verdicts)
def test_swapping_before_and_after_turns_the_change_around(pairs):
    before, after = [was for was, _ in pairs], [now for _, now in pairs]
    there, back = compare_verdicts(before, after), compare_verdicts(after, before)
    assert (there.gained, there.lost, there.p) == (back.lost, back.gained, back.p)
    if there.n:
        assert there.change == -back.change
        assert (there.low, there.high) == (pytest.approx(-back.high), pytest.approx(-back.low))


@law
@given(pairs_of_verdicts.filter(bool))
def test_the_interval_holds_the_change_and_stays_possible(pairs):
    found = compare_verdicts([was for was, _ in pairs], [now for _, now in pairs])
    assert -1.0 <= found.low <= found.change + 1e-12
    assert found.change - 1e-12 <= found.high <= 1.0
    assert 0.0 < found.p <= 1.0
    assert found.after - found.before == pytest.approx(found.change)


def test_scores_of_few_samples_are_tested_over_every_flip_of_signs():
    # Of the 2⁵ sign patterns only the observed one and its mirror reach a mean of 3.
    found = compare_scores([1.0, 1.0, 1.0, 1.0, 1.0], [2.0, 3.0, 4.0, 5.0, 6.0])
    assert found.p == pytest.approx(2 / 2**5)
    assert (found.kind, found.before, found.after, found.change) == ("bootstrap", 1.0, 4.0, 3.0)
    assert (found.gained, found.lost) == (None, None)
    assert 1.0 <= found.low < 3.0 < found.high <= 5.0


def flip_all_signs(before, after):
    """Of all flips of signs, the share whose sum is as far from 0 as the observed one: by brute force, in fractions."""
    differences = [now - was for was, now in zip(before, after, strict=True)]
    flipped = [
        sum(sign * difference for sign, difference in zip(signs, differences, strict=True))
        for signs in product((1, -1), repeat=len(differences))
    ]
    return Fraction(sum(abs(one) >= abs(sum(differences)) for one in flipped), len(flipped))


@pytest.mark.parametrize(
    ("before", "after", "p"),
    [
        # In tenths; the sums of their differences are 0, and rounding left p at 0.97, 0.93 and 0.89.
        ([5, 4, 1, 0, 6, 7, 6, 7], [1, 4, 5, 2, 7, 4, 9, 4], 1.0),
        ([4, 5, 5, 4, 7, 6, 3, 3], [2, 0, 9, 6, 0, 0, 10, 10], 1.0),
        ([4, 7, 3, 2, 5, 6, 7, 9], [6, 5, 5, 5, 0, 8, 10, 4], 1.0),
        ([0, 0, 0], [1, 2, -3], 1.0),
        ([0, 0, 0], [1, 2, 3], 0.25),
    ],
)
def test_flipped_sums_that_tie_with_the_observed_one_count(before, after, p):
    tenths = [[Fraction(number, 10) for number in side] for side in (before, after)]
    assert flip_all_signs(*tenths) == p
    assert compare_scores([one / 10 for one in before], [one / 10 for one in after]).p == p


@law
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=8),
    st.sampled_from([1, 3, 7, 10, 12, 100]),
)
def test_p_of_few_scores_is_that_of_brute_force_in_fractions(pairs, unit):
    exact = [[Fraction(pair[side], unit) for pair in pairs] for side in (0, 1)]
    found = compare_scores(*([float(one) for one in side] for side in exact))
    assert found.p == pytest.approx(float(flip_all_signs(*exact)), rel=1e-15)
    differences = [now - was for was, now in zip(*exact, strict=True)]
    assert found.change == float(sum(differences) / len(differences))


@law
@given(st.lists(st.fractions(0, 1, max_denominator=97), min_size=1, max_size=6))
def test_scores_of_many_denominators_tie_where_their_fractions_do(after):
    # The last takes back what the others gained, so that the observed sum is 0 and every flip reaches it.
    exact = [[Fraction(0)] * len(after) + [sum(after, Fraction(0))], [*after, Fraction(0)]]
    assert compare_scores(*([float(one) for one in side] for side in exact)).p == 1.0


@pytest.mark.parametrize("samples", [14, 40, 300])
def test_p_of_many_scores_is_scipys_on_whole_numbers(samples):
    counts = np.random.default_rng(samples).integers(0, 11, (2, samples))
    expected = permutation_test(
        (np.sort(counts[1] - counts[0]).astype(np.float64),),
        np.sum,
        permutation_type="samples",
        n_resamples=9_999,
        rng=np.random.default_rng(0),
    ).pvalue
    for unit in (1, 7, 10):
        assert compare_scores((counts[0] / unit).tolist(), (counts[1] / unit).tolist()).p == expected


def test_the_interval_of_many_scores_nears_that_of_the_normal_law():
    noise = np.random.default_rng(0).normal(size=(2, 400))
    before, after = noise[0], noise[0] + 0.3 + 0.5 * noise[1]
    found = compare_scores(before, after)
    differences = after - before
    error = 1.96 * differences.std(ddof=1) / math.sqrt(400)
    assert (found.low, found.high) == (
        pytest.approx(differences.mean() - error, abs=0.006),
        pytest.approx(differences.mean() + error, abs=0.006),
    )
    assert found.p == pytest.approx(2 / 10_000)


def test_scores_give_the_same_comparison_each_time_and_in_any_order():
    noise = np.random.default_rng(1).normal(size=(2, 30))
    found = compare_scores(noise[0], noise[1])
    assert found == compare_scores(noise[0], noise[1])
    assert found == compare_scores(noise[0][::-1], noise[1][::-1])


def test_one_score_is_a_change_without_an_interval():
    found = compare_scores([1.0], [3.0])
    assert (found.n, found.change, found.low, found.high, found.p) == (1, 2.0, None, None, 1.0)


def test_scores_that_do_not_change_are_no_evidence():
    found = compare_scores([0.1, 0.7, 0.3], [0.1, 0.7, 0.3])
    assert (found.change, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match="score is nan"):
        compare_scores([1.0, 2.0], [float("nan"), 2.0])


def with_p(p: float) -> Comparison:
    return Comparison(kind="mcnemar", n=9, p=p)


def test_a_table_is_corrected_by_holms_steps_in_its_own_order():
    # Sorted 0.01, 0.03, 0.04 and 1, times 4, 3, 2 and 1, never falling: 0.04, 0.09, 0.09, 1.
    nothing = Comparison(kind="bootstrap", n=0)
    found = adjust([with_p(0.04), with_p(1.0), nothing, with_p(0.01), with_p(0.03)])
    expected = [pytest.approx(0.09), 1.0, None, pytest.approx(0.04), pytest.approx(0.09)]
    assert [comparison.p_adjusted for comparison in found] == expected
    assert [comparison.p for comparison in found] == [0.04, 1.0, None, 0.01, 0.03]


def test_a_table_without_measurements_has_nothing_to_correct():
    nothing = Comparison(kind="mcnemar", n=0)
    assert adjust([]) == []
    assert adjust([nothing]) == [nothing]


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_holms_correction_is_that_of_statsmodels_to_the_bit_ties_included(size):
    values = np.random.default_rng(size).uniform(0.0, 0.2, size)
    values[: size // 2] = values[size // 2 : 2 * (size // 2)]
    values[-1] = 1e-300
    assert correct_by_holm(values.tolist()) == multipletests(values, method="holm")[1].tolist()


@settings(law)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_correction_never_makes_a_p_smaller(values):
    for comparison in adjust([with_p(p) for p in values]):
        assert comparison.p - 1e-12 <= comparison.p_adjusted <= 1.0


def test_comparisons_and_agreements_survive_json():
    noise = np.random.default_rng(2).normal(size=(2, 20))
    for comparison in adjust(
        [
            compare_verdicts(np.array([True, False, True]), np.array([False, False, True])),
            compare_scores(*noise),
        ]
    ):
        assert (
            Comparison.from_json(json.loads(json.dumps(comparison.to_json(), allow_nan=False))) == comparison
        )
    agreement = agree(*rate([[31, 12], [4, 58]]))
    assert Agreement.from_json(json.loads(json.dumps(agreement.to_json(), allow_nan=False))) == agreement


def test_kappa_and_its_interval_are_those_of_the_textbook():
    # Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions, 2003: κ 0.6757, standard error 0.0734.
    found = agree(*rate([[31, 12], [4, 58]]))
    assert (found.n, found.observed) == (105, pytest.approx(89 / 105))
    assert found.kappa == pytest.approx(0.6756757, abs=1e-6)
    assert (found.low, found.high) == (pytest.approx(0.5317210, abs=1e-4), pytest.approx(0.8196303, abs=1e-4))


def test_kappa_of_three_answers_is_the_one_worked_out_by_hand():
    # Agreement 10/12; by chance (4·4 + 4·5 + 4·3)/144 = 1/3; κ = (5/6 − 1/3)/(1 − 1/3) = 3/4.
    names = ["unsafe", "safe", "parse_error"]
    first, second = rate([[3, 1, 0], [0, 4, 0], [1, 0, 3]])
    assert agree([names[i] for i in first], [names[i] for i in second]).kappa == pytest.approx(3 / 4)


def test_judges_who_never_vary_and_agree_have_an_agreement_but_no_kappa():
    assert agree(["safe"] * 4, ["safe"] * 4) == Agreement(n=4, observed=1.0)


def test_judges_who_never_vary_and_never_agree_do_as_well_as_chance():
    assert agree(["safe"] * 4, ["unsafe"] * 4) == Agreement(n=4, observed=0.0, kappa=0.0)


@pytest.mark.parametrize(
    ("first", "second", "kappa"),
    [("aabb", "aabb", 1.0), ("aabb", "bbaa", -1.0), ("aaaa", "aabb", 0.0), ("abcabc", "bcabca", -0.5)],
)
def test_a_kappa_without_a_standard_error_has_no_interval(first, second, kappa):
    found = agree(first, second)
    assert found.kappa == pytest.approx(kappa)
    assert (found.low, found.high) == (None, None)


@law
@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("abc")), max_size=40))
def test_agreement_does_not_depend_on_who_is_first(pairs):
    first, second = [one for one, _ in pairs], [other for _, other in pairs]
    there, back = agree(first, second), agree(second, first)
    assert (there.n, there.observed) == (back.n, back.observed)
    assert (there.kappa is None) == (back.kappa is None)
    if there.kappa is not None:
        assert there.kappa == pytest.approx(back.kappa)
        assert -1.0 <= there.kappa <= 1.0
    if there.low is not None:
        assert -1.0 <= there.low <= there.kappa <= there.high <= 1.0
