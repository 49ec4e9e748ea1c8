"""The area under the ROC curve with a 95 % interval that does not close at 0 and 1."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.rates import Z

# Halvings of a bracket of at most 1: less than a double can tell apart.
HALVINGS = 60


@dataclass(frozen=True, kw_only=True)
class Auroc:
    """Probability that a positive scores above a negative, ties by half, with its 95 % interval."""

    value: float
    low: float
    high: float
    positives: int
    negatives: int


def measure_auroc(
    scores: NDArray[Any], positive: NDArray[np.bool_], folds: Sequence[NDArray[np.intp]] | None = None
) -> Auroc | None:
    """Measure the AUROC of scores [n] for the positives among them; None without one positive and one negative.

    Scores of different `folds` (rows of each) come from different probes and are not compared: the result is the mean
    over folds, weighted by pairs (Forman and Scholz, SIGKDD Explorations 12, 2010). A fold with one label adds no pair.
    """
    wins, pairs = 0.0, 0
    for rows in [np.arange(len(scores))] if folds is None else folds:
        own, other = (np.sort(scores[rows][positive[rows] == label]) for label in (True, False))
        above = np.searchsorted(other, own, "left") + np.searchsorted(other, own, "right")
        wins += float(above.sum()) / 2
        pairs += len(own) * len(other)
    if not pairs:
        return None
    positives = int(positive.sum())
    negatives = len(positive) - positives
    low, high = find_interval(wins / pairs, positives=positives, negatives=negatives)
    return Auroc(value=wins / pairs, low=low, high=high, positives=positives, negatives=negatives)


def find_interval(value: float, *, positives: int, negatives: int) -> tuple[float, float]:
    """Find the 95 % interval of an AUROC by Newcombe's method 5 (Statistics in Medicine 25, 2006, pp. 559–573).

    Like Wilson's for a rate, it is all θ whose own standard error (Hanley and McNeil's, with both counts replaced by
    their mean) explains the distance to the observed value. At an AUROC of 1, which probes of hidden states often
    reach, DeLong's interval and the bootstrap's have no width; this one has. It is conditional on the probe: what
    another training set would change is not in it.
    """

    def is_explained(theta: float) -> bool:
        around = (positives + negatives) / 2 - 1
        variance = theta * (1 - theta) / (positives * negatives)
        variance *= 1 + around * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (value - theta) ** 2 <= Z**2 * variance

    return _find_end(is_explained, value, 0.0), _find_end(is_explained, value, 1.0)


def _find_end(is_explained: Callable[[float], bool], inside: float, outside: float) -> float:
    """Halve the bracket between the observed value and 0 or 1 to the last θ that explains the value."""
    if inside == outside:
        return inside
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if is_explained(middle) else (inside, middle)
    return inside
