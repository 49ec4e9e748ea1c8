"""Bootstrap intervals of what is measured on mean vectors: lengths, cosines, shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.rates import CONFIDENCE, Mean

# An interval's end is the 25th of them.
RESAMPLES = 1_000
SEED = 0
ENDS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))

Floats = NDArray[np.float64]
# What is computed from vectors as observed, [1], and from those of each resample, [resamples]; without the second
# where there is nothing to resample.
Measured = Sequence[Floats]


def draw_counts(strata: Sequence[int], *, seed: int = SEED) -> Iterator[Floats]:
    """Draw how often each row occurs as observed, [1, rows], and in each resample, [resamples, rows].

    The rows of each stratum follow those of the one before and are resampled among themselves. With fewer than two rows
    in all there are no resamples.
    """
    yield np.ones((1, sum(strata)))
    if sum(strata) > 1:
        generator = np.random.default_rng(seed)
        drawn = [
            generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
            for count in strata
            if count
        ]
        yield np.concatenate(drawn, axis=1).astype(np.float64)


def summarize(measured: Measured, count: int) -> Mean:
    """Summarize a measure by its percentile interval; None where it is not finite."""
    value, resampled = float(measured[0][0]), measured[1:]
    if not np.isfinite(value):
        return Mean(value=None, low=None, high=None, n=count)
    if not resampled or not np.isfinite(resampled[0]).all():
        return Mean(value=value, low=None, high=None, n=count)
    low, high = np.percentile(resampled[0], ENDS)
    return Mean(value=value, low=float(low), high=float(high), n=count)


def summarize_length(measured: Measured, count: int) -> Mean:
    """Summarize the length of a mean, or of a difference of means, by its percentile interval less its bias.

    In squares, the mean of n vectors is too long by the trace of their covariance / n, and the mean of a resample by
    that once more: the second shows in the resamples, and both are subtracted.
    """
    value = float(measured[0][0])
    if len(measured) < 2 or not np.isfinite(measured[1]).all():
        return summarize(measured, count)
    squares = measured[1] ** 2
    excess = 2 * max(0.0, float(squares.mean()) - value**2)
    low, high = np.sqrt(np.maximum(0.0, np.percentile(squares, ENDS) - excess))
    # Of short and noisy vectors, the length that was observed may lie above all that is left.
    return Mean(value=value, low=min(float(low), value), high=max(float(high), value), n=count)


def find_cosines(first: Floats, second: Floats) -> Floats:
    """The cosine of each row with the same row of another array; NaN where a length is 0."""
    along = np.einsum("ij,ij->i", first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        return along / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))
