"""How wide the intervals of a judge's sensitivity and specificity will be, before anything is labelled."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log, sqrt

from cmrm.statistics.rates import Z

# A judge that is right about so many answers of either kind is planned for.
RIGHT = 0.9
# Beyond so many times the labels, a width is out of reach.
MOST_TIMES = 1e6


@dataclass(frozen=True, kw_only=True)
class ExpectedWidths:
    """Expected widths of the 95 % intervals of sensitivity and specificity, 0 to 1.

    `sensitivity_right` and `specificity_right` are the values that they are expected at.
    """

    sensitivity: float
    specificity: float
    sensitivity_right: float
    specificity_right: float

    @property
    def widest(self) -> float:
        """The wider one."""
        return max(self.sensitivity, self.specificity)


def expect_widths(flagged_share: float, *, flagged_labels: float, passed_labels: float) -> ExpectedWidths:
    """Expect the widths for so many labels of answers that the judge calls unsafe, and of those that it calls safe.

    `flagged_share` is the share of answers that it calls unsafe, above 0 and below 1. The judge is taken to be right
    about 90 % of the answers of either kind, or more where so few (or so many) are called unsafe that half of the
    rarer verdict would be wrong. Sensitivity's odds are those of the two verdicts times a ratio of two proportions, so
    its width follows from the variance of their logarithms (the delta method).
    """
    if not 0 < flagged_share < 1:
        raise ValueError(f"the share of answers called unsafe is {flagged_share}; give one between 0 and 1")
    sensitivity = max(RIGHT, 1 - (1 - flagged_share) / 2)
    specificity = max(RIGHT, 1 - flagged_share / 2)
    unsafe = (flagged_share + specificity - 1) / (sensitivity + specificity - 1)
    under_flagged = unsafe * sensitivity / flagged_share
    under_passed = unsafe * (1 - sensitivity) / (1 - flagged_share)
    first = _divide(1 - under_flagged, under_flagged * flagged_labels)
    first += _divide(1 - under_passed, under_passed * passed_labels)
    second = _divide(under_flagged, (1 - under_flagged) * flagged_labels)
    second += _divide(under_passed, (1 - under_passed) * passed_labels)
    return ExpectedWidths(
        sensitivity=_find_width(sensitivity, first),
        specificity=_find_width(specificity, second),
        sensitivity_right=sensitivity,
        specificity_right=specificity,
    )


def count_labels(width: float, flagged_share: float, *, flagged_labels: float, passed_labels: float) -> int:
    """Count the labels that make both intervals no wider than `width`, at the proportion of the two given."""
    if not 0 < width < 1:
        raise ValueError(f"the width of an interval is {width}; give one between 0 and 1")

    def find_widest(times: float) -> float:
        return expect_widths(
            flagged_share, flagged_labels=flagged_labels * times, passed_labels=passed_labels * times
        ).widest

    low, high = 1 / MOST_TIMES, MOST_TIMES
    while high / low > 1 + 1e-9:
        middle = sqrt(low * high)
        low, high = (low, middle) if find_widest(middle) <= width else (middle, high)
    return ceil(high * (flagged_labels + passed_labels) * (1 - 1e-6))


def _find_width(value: float, variance: float) -> float:
    if value >= 1:
        return 0.0
    middle, margin = log(value / (1 - value)), Z * sqrt(variance)
    return _expit(middle + margin) - _expit(middle - margin)


def _expit(number: float) -> float:
    # Of a large negative number, exp overflows.
    return 1 / (1 + exp(-number)) if number > -500 else 0.0


def _divide(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else (0.0 if not numerator else 1e9)
