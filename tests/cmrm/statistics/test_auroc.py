"""AUROC and its interval: against scikit-learn, against the equation that the interval solves, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import brentq
from sklearn.metrics import roc_auc_score

from cmrm.statistics.auroc import find_interval, measure_auroc


@pytest.mark.parametrize("seed", range(4))
def test_auroc_is_scikit_learns_with_ties_by_half(seed: int) -> None:
    chance = np.random.default_rng(seed)
    scores, labels = chance.integers(0, 5, size=60) / 4, chance.random(60) < 0.3
    found = measure_auroc(scores, labels)
    assert found is not None
    assert found.value == pytest.approx(roc_auc_score(labels, scores))
    assert (found.positives, found.negatives) == (labels.sum(), (~labels).sum())


def test_scores_of_different_folds_are_not_compared() -> None:
    # Each fold alone is perfect; their scales differ so much that together they are not.
    scores = np.array([0.0, 1.0, 100.0, 101.0])
    labels = np.array([False, True, False, True])
    folds = [np.array([0, 1]), np.array([2, 3])]
    assert roc_auc_score(labels, scores) < 1
    together = measure_auroc(scores, labels, folds)
    assert together is not None
    assert together.value == 1.0


def test_without_both_labels_there_is_none() -> None:
    assert measure_auroc(np.ones(3), np.ones(3, dtype=bool)) is None
    assert measure_auroc(np.ones(0), np.ones(0, dtype=bool)) is None


@pytest.mark.parametrize(("value", "m", "n"), [(0.5, 10, 30), (0.83, 72, 40), (0.99, 200, 20), (0.2, 8, 8)])
def test_the_interval_solves_newcombes_equation(value: float, m: int, n: int) -> None:
    def excess(theta: float) -> float:
        mean = (m + n) / 2 - 1
        spread = 1 + mean * (1 - theta) / (2 - theta) + mean * theta / (1 + theta)
        return (value - theta) ** 2 - 1.959963984540054**2 * theta * (1 - theta) * spread / (m * n)

    low, high = find_interval(value, positives=m, negatives=n)
    assert low == pytest.approx(brentq(excess, 1e-9, value), abs=1e-9)
    assert high == pytest.approx(brentq(excess, value, 1 - 1e-9), abs=1e-9)


def test_a_perfect_probe_has_an_interval_with_width_that_narrows_with_samples() -> None:
    few, many = (find_interval(1.0, positives=n, negatives=n) for n in (10, 200))
    assert few[1] == many[1] == 1.0
    assert 0.6 < few[0] < many[0] < 1.0
    low, high = find_interval(0.0, positives=10, negatives=10)
    assert (low, high) == (0.0, pytest.approx(1 - few[0]))


@pytest.mark.parametrize("truth", [0.5, 0.8, 0.97])
def test_the_interval_holds_the_truth_about_as_often_as_it_says(truth: float) -> None:
    # Two normal distributions of variance 1 whose means differ by √2 · Φ⁻¹(AUROC).
    from scipy.stats import norm

    chance, hits = np.random.default_rng(7), 0
    labels = np.arange(60) < 30
    for _ in range(400):
        found = measure_auroc(chance.normal(size=60) + labels * np.sqrt(2) * norm.ppf(truth), labels)
        assert found is not None
        hits += found.low <= truth <= found.high
    assert hits / 400 > 0.92
