"""Rates with Wilson intervals, and mean scores with bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import isfinite, lcm, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIDENCE = 0.95
# Two-sided normal quantile of that confidence (1.96).
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
RESAMPLES = 9_999

# Every interval has its own generator with this seed, so that reports are reproducible.
SEED = 0

# Integers up to this are exact in a double.
_LARGEST_COUNT = 2**53
# A score is read as a fraction with at most this denominator, or a decimal of so many digits, if they differ by
# rounding alone.
_LARGEST_DENOMINATOR = 1_000
_DECIMAL = ".12g"
_ROUNDING = Fraction(1, 2**50)

# Resampled values in memory at once: 32 MB of doubles, whatever the number of samples.
BATCH_VALUES = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Successes among `n` trials; without trials the rate is unmeasured, not zero."""

    successes: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.successes <= self.n:
            raise ValueError(f"a rate of {self.successes} successes in {self.n} trials is impossible")

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Rate:
        """Count the true ones among the outcomes."""
        counted = list(outcomes)
        return cls(successes=sum(counted), n=len(counted))

    @property
    def value(self) -> float | None:
        """The fraction of successes, 0 to 1, or None when nothing was measured."""
        return self.successes / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % Wilson score interval (Wilson 1927, without continuity correction), or None without trials.

        Implemented here, and compared with scipy's in a test, because every printed table has it and importing
        scipy.stats takes longer than the rest of a run with nothing left to do.
        """
        if not self.n:
            return None
        missed = self.n - self.successes
        around = self.successes + Z**2 / 2
        margin = Z * sqrt(self.successes * missed / self.n + Z**2 / 4)
        low = (around - margin) / (self.n + Z**2) if self.successes else 0.0
        high = (around + margin) / (self.n + Z**2) if missed else 1.0
        return low, high

    def __str__(self) -> str:
        if self.value is None or self.interval is None:
            return "not measured"
        low, high = self.interval
        return f"{100 * self.value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


@dataclass(frozen=True, kw_only=True)
class Mean:
    """The mean of `n` scores and its 95 % bootstrap interval, in the scores' own unit.

    Without scores all but `n` is None; one score has a mean and no interval.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Mean:
        """Measure the mean of the scores; raises `ValueError` for a score that is not finite."""
        scores = [float(value) for value in values]
        if not scores:
            return cls(value=None, low=None, high=None, n=0)
        interval = bootstrap_mean(scores)
        low, high = interval if interval is not None else (None, None)
        return cls(value=mean(scores), low=low, high=high, n=len(scores))

    def __str__(self) -> str:
        if self.value is None:
            return "not measured"
        if self.low is None or self.high is None:
            return f"{self.value:.2f}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def paired_interval(*, both: int, first_only: int, second_only: int, neither: int) -> tuple[float, float]:
    """Compute the 95 % interval of first − second, two rates on the same samples.

    Newcombe's method 10 (Statistics in Medicine 17, 1998, pp. 2635–2650): Wilson's limits of each rate, combined
    with the correlation φ of the two, which is lowered by half a sample if positive. Implemented here because neither
    scipy nor a released statsmodels has it. Raises `ValueError` without samples.
    """
    n = both + first_only + second_only + neither
    first, second = Rate(successes=both + first_only, n=n), Rate(successes=both + second_only, n=n)
    below_first, above_first = _find_margins(first)
    below_second, above_second = _find_margins(second)
    margins = first.successes * (n - first.successes) * second.successes * (n - second.successes)
    product: float = both * neither - first_only * second_only
    if product > 0:
        product = max(product - n / 2, 0.0)
    phi = product / sqrt(margins) if margins else 0.0
    change = (first_only - second_only) / n
    low = change - sqrt(below_first**2 - 2 * phi * below_first * above_second + above_second**2)
    high = change + sqrt(below_second**2 - 2 * phi * below_second * above_first + above_first**2)
    return max(-1.0, low), min(1.0, high)


def mean(values: Iterable[float]) -> float:
    """Compute the mean of one or more values, independent of their order and within their range.

    It is the exact mean of the fractions that the values stand for, rounded once: that of 0.1, 0.2 and −0.3 is 0.
    Raises `ValueError` for a value that is not finite.
    """
    scores = [float(value) for value in values]
    exact = recover_fractions(scores)
    return _clip(_add(exact) / len(exact), scores)


def recover_fractions(values: Iterable[float]) -> list[Fraction]:
    """Recover the fraction that each value stands for: 1/10 for 0.1, 1/3 for 0.333…, else the double itself.

    Sums of these tie exactly where those of the scores should, as 0.1 + 0.2 and 0.3. Raises `ValueError` for a value
    that is not finite.
    """
    scores = [float(value) for value in values]
    # Scores repeat, and each search takes many times as long as a look-up.
    known = {score: _recover(score) for score in set(scores)}
    return [known[score] for score in scores]


def count_in_units(numbers: Sequence[Fraction]) -> tuple[list[int], int]:
    """Write numbers as integer multiples of a common unit: the multiples, and the number of units in 1."""
    units = lcm(*{number.denominator for number in numbers})
    return [number.numerator * (units // number.denominator) for number in numbers], units


def bootstrap_mean(values: Iterable[float]) -> tuple[float, float] | None:
    """Compute the 95 % bootstrap interval of the mean, or None for fewer than two values.

    9,999 resamples, bias-corrected and accelerated (BCa, Efron 1987); the order of the values does not matter. Equal
    values, for which BCa is undefined, give the percentile interval, which has no width. Raises `ValueError` for a
    value that is not finite.
    """
    import numpy as np
    from scipy.stats import bootstrap

    scores = sorted(float(value) for value in values)
    sample = recover_fractions(scores)
    if len(sample) < 2:
        return None
    if sample[0] == sample[-1]:
        return scores[0], scores[-1]
    # BCa's bias counts the resamples whose sum ties with the sample's, and a limit may be 0: integers add up exactly.
    origin, scale, counts = _count_from_origin(sample)
    found = bootstrap(
        (np.array(counts, dtype=np.float64),),
        lambda values, axis: values.sum(axis=axis),
        n_resamples=RESAMPLES,
        batch=max(1, BATCH_VALUES // len(sample)),
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    low, high = (
        _clip(origin + scale * Fraction(float(limit)) / len(sample), scores)
        for limit in (found.low, found.high)
    )
    return low, high


def resample(
    samples: Sequence[NDArray[Any]], statistic: Callable[..., Any], *, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Compute the 95 % percentile bootstrap interval of a statistic, or None for fewer than two values.

    Several samples are resampled together, row by row. A statistic that takes `axis` is computed for all resamples at
    once (`scipy.stats.bootstrap`).
    """
    if len(samples[0]) < 2:
        return None
    import numpy as np
    from scipy.stats import bootstrap

    found = bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        n_resamples=resamples,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(SEED),
    ).confidence_interval
    return float(found.low), float(found.high)


def _find_margins(rate: Rate) -> tuple[float, float]:
    if rate.value is None or rate.interval is None:
        raise ValueError("two rates without a sample have no interval; ask for one only where n > 0")
    return rate.value - rate.interval[0], rate.interval[1] - rate.value


def _recover(score: float) -> Fraction:
    if not isfinite(score):
        raise ValueError(f"a score is {score}; leave out what was not measured before averaging")
    exact = Fraction(score)
    for simple in (exact.limit_denominator(_LARGEST_DENOMINATOR), Fraction(format(score, _DECIMAL))):
        if abs(simple - exact) <= _ROUNDING * abs(exact):
            return simple
    return exact


def _count_from_origin(sample: Sequence[Fraction]) -> tuple[Fraction, Fraction, list[int]]:
    """Write a sample as origin + scale · integers whose sum over a resample is exact in double precision.

    Exact if the numbers have a common denominator that allows it; else rounded to a grid, on which equal numbers
    stay equal, 0 stays 0 and opposite numbers opposite.
    """
    low, high = min(sample), max(sample)
    origin = Fraction(0) if low <= 0 <= high else low
    counts, units = count_in_units([number - origin for number in sample])
    most = _LARGEST_COUNT // len(sample)
    if max(map(abs, counts)) <= most:
        return origin, Fraction(1, units), counts
    scale = max(map(abs, (low - origin, high - origin))) / most
    return origin, scale, [round((number - origin) / scale) for number in sample]


def _add(numbers: Sequence[Fraction]) -> Fraction:
    # One division at the end: adding fractions one by one would compute a common divisor each time.
    counts, units = count_in_units(numbers)
    return Fraction(sum(counts), units)


def _clip(number: Fraction, scores: Sequence[float]) -> float:
    return min(max(float(number), min(scores)), max(scores))
