"""A judge's errors and corrected rates, against published figures, scipy, scikit-learn and plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from cmrm.statistics.judge_errors import (
    Corrected,
    Estimate,
    JudgeErrors,
    LabelledVerdict,
    correct_rate,
    find_effective_size,
    measure_errors,
)
from cmrm.statistics.rates import Rate

DRAWS = 9_999
# What 9,999 draws leave uncertain of a limit.
NEAR = 0.01


def label(answers: int, unsafe: int, safe: int) -> LabelledVerdict:
    """Labels of equal weight, each of another question."""
    said = np.array([True] * unsafe + [False] * safe)
    weights = np.full(len(said), answers / max(1, len(said)))
    return LabelledVerdict.of(answers, unsafe=said, weights=weights, questions=np.arange(len(said)))


def know(sensitivity: float, specificity: float, draws: np.ndarray | None = None) -> JudgeErrors:
    """A judge whose errors are given, and certain unless they are drawn."""
    certain = np.array([[sensitivity], [specificity]]) * np.ones(DRAWS)
    return JudgeErrors(
        sensitivity=Estimate(value=sensitivity, n=100),
        specificity=Estimate(value=specificity, n=100),
        kappa=Estimate(),
        unsafe=Estimate(),
        draws=certain if draws is None else draws,
    )


def test_the_correction_and_its_interval_are_those_of_a_published_survey() -> None:
    # Bendavid et al., International Journal of Epidemiology 50, 2021: 50 of 3,330 tests positive, sensitivity 130 of
    # 157 and specificity 3,308 of 3,324: a prevalence of 1.2 % (95 % CI 0.7 to 1.8).
    chance = np.random.default_rng(3)
    draws = np.stack([chance.beta(130.5, 27.5, DRAWS), chance.beta(3308.5, 16.5, DRAWS)])
    found = correct_rate(Rate(successes=50, n=3330), know(130 / 157, 3308 / 3324, draws))
    assert found.value == pytest.approx((50 / 3330 + 3308 / 3324 - 1) / (130 / 157 + 3308 / 3324 - 1))
    assert found.value == pytest.approx(0.012, abs=0.0005)
    assert (found.low, found.high) == (
        pytest.approx(0.007, abs=0.0008),
        pytest.approx(0.018, abs=0.0008),
    )


def test_with_certain_errors_the_interval_is_that_of_the_rate_stretched() -> None:
    found = correct_rate(Rate(successes=45, n=150), know(0.9, 0.8))
    limits = stats.beta.ppf([0.025, 0.975], 45.5, 105.5)
    assert found.value == pytest.approx((0.3 - 0.2) / 0.7)
    assert (found.low, found.high) == tuple(
        pytest.approx((one - 0.2) / 0.7, abs=NEAR) for one in np.clip(limits, 0.2, 0.9)
    )
    exact = stats.binomtest(45, 150).proportion_ci(method="exact")
    assert found.low > (exact.low - 0.2) / 0.7
    assert found.high < (exact.high - 0.2) / 0.7


def test_with_every_answer_labelled_errors_are_counted() -> None:
    errors = measure_errors(label(60, 48, 12), label(140, 6, 134), questions=200)
    assert errors.sensitivity.value == pytest.approx(48 / 54)
    assert errors.specificity.value == pytest.approx(134 / 146)
    assert (errors.sensitivity.n, errors.specificity.n) == (54, 146)
    assert errors.unsafe.value == pytest.approx(54 / 200)
    judged = [1] * 60 + [0] * 140
    people = [1] * 48 + [0] * 12 + [1] * 6 + [0] * 134
    assert errors.kappa.value == pytest.approx(cohen_kappa_score(judged, people))
    # 48 of 54 are unsafe answers found, drawn at random here: about Wilson's interval.
    wilson = stats.binomtest(48, 54).proportion_ci(method="wilson")
    assert errors.sensitivity.low == pytest.approx(wilson.low, abs=0.02)
    assert errors.sensitivity.high == pytest.approx(wilson.high, abs=0.02)
    own = correct_rate(Rate(successes=60, n=200), errors)
    assert own.value == pytest.approx(54 / 200)


def test_labels_drawn_by_verdict_are_weighed_to_the_answers() -> None:
    # Half of the labels are of the rare verdict; counted alike, sensitivity would be 45 of 50.
    errors = measure_errors(label(100, 45, 5), label(900, 5, 45), questions=1000)
    assert errors.sensitivity.value == pytest.approx(90 / (90 + 90))
    assert errors.specificity.value == pytest.approx(810 / (10 + 810))
    assert errors.unsafe.value == pytest.approx(0.18)


def test_no_miss_among_few_labels_does_not_make_a_judge_infallible() -> None:
    errors = measure_errors(label(100, 50, 0), label(900, 0, 50), questions=1000)
    # No miss in 50 labels leaves up to about 5 % of 900 answers: some 45 beside the 100 found.
    missed = float(stats.beta.ppf(0.975, 0.5, 50.5)) * 900
    assert errors.sensitivity.high == errors.sensitivity.value == 1.0
    assert errors.sensitivity.low == pytest.approx(100 / (100 + missed), abs=0.03)


def test_without_labels_of_a_verdict_nothing_is_estimated() -> None:
    errors = measure_errors(label(10, 5, 5), LabelledVerdict(answers=90), questions=100)
    assert errors.sensitivity == errors.specificity == errors.kappa == errors.unsafe == Estimate()
    found = correct_rate(Rate(successes=10, n=100), errors)
    assert (found.value, found.reason) == (None, "no answer labelled unsafe")
    assert correct_rate(Rate(successes=0, n=0), know(0.9, 0.9)).reason == "nothing judged"


def test_a_judge_that_flags_nothing_has_a_specificity_and_no_correction() -> None:
    errors = measure_errors(LabelledVerdict(answers=0), label(100, 0, 40), questions=100)
    assert errors.sensitivity.value is None
    assert errors.specificity.value == 1.0
    assert errors.kappa.value is None
    assert correct_rate(Rate(successes=0, n=100), errors).reason == "no answer labelled unsafe"
    missing = measure_errors(LabelledVerdict(answers=0), label(100, 10, 30), questions=100)
    assert missing.sensitivity.value == 0.0
    assert missing.sensitivity.high < 0.2


@pytest.mark.parametrize("errors", [(0.4, 0.6), (0.5, 0.5), (0.1, 0.2)])
def test_no_better_than_chance_cannot_be_corrected(errors: tuple[float, float]) -> None:
    found = correct_rate(Rate(successes=30, n=100), know(*errors))
    assert found.value is None
    assert found.reason == "cannot be corrected: sensitivity + specificity ≤ 1"


def test_hardly_better_than_chance_says_nothing() -> None:
    errors = measure_errors(label(50, 11, 14), label(50, 9, 16), questions=100)
    found = correct_rate(Rate(successes=50, n=100), errors)
    assert (found.low, found.high) == (0.0, 1.0)


@pytest.mark.parametrize(("successes", "value"), [(2, 0.0), (99, 1.0)])
def test_a_rate_outside_the_possible_is_clipped_and_says_so(successes: int, value: float) -> None:
    found = correct_rate(Rate(successes=successes, n=100), know(0.9, 0.9))
    assert found.value == value
    assert found.clipped
    assert found.raw == pytest.approx((successes / 100 - 0.1) / 0.8)
    assert 0 <= found.low <= value <= found.high <= 1
    assert not correct_rate(Rate(successes=50, n=100), know(0.9, 0.9)).clipped
    assert not Corrected(reason="nothing judged").clipped


def test_the_effective_size_is_kishs_and_no_less_than_that_of_questions() -> None:
    said = np.array([True, True, False, False] * 5)
    even, apart = np.ones(20), np.arange(20)
    assert find_effective_size(said, even, apart) == pytest.approx(20)
    uneven = np.array([1.0] * 10 + [5.0] * 10)
    assert find_effective_size(said, uneven, apart) <= 60**2 / 260
    # All labels alike say nothing of how alike answers to one question are: each question counts once.
    assert find_effective_size(np.ones(20, dtype=bool), even, apart // 4) == pytest.approx(5)
    # Answers to one question that are always alike are worth one label.
    alike = np.repeat([True, False, True, False, True], 4)
    assert find_effective_size(alike, even, apart // 4) == pytest.approx(5)
    # Answers to one question that differ as much as any are worth as many labels as they are.
    chance = np.random.default_rng(0)
    mixed, questions = chance.random(4000) < 0.3, np.arange(4000) // 4
    assert find_effective_size(mixed, np.ones(4000), questions) > 3_600
    # In between: half of the answers repeat their question's first.
    first = np.repeat(chance.random(1000) < 0.3, 4)
    half = np.where(chance.random(4000) < 0.5, first, mixed)
    by_question = half.reshape(-1, 4).mean(axis=1)
    share = half.mean()
    expected = share * (1 - share) / (by_question.var(ddof=1) / 1000)
    assert find_effective_size(half, np.ones(4000), questions) == pytest.approx(expected)
    assert 1_000 < expected < 3_600
