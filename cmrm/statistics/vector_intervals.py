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


def summarize_cosine(first: Measured, second: Measured, count: int) -> Mean:
    """Summarize the cosine of two means by its percentile interval, less its bias; vectors [1, d] and [resamples, d].

    Noise makes both means longer, and the cosine smaller; in a resample twice so, whose cosines can all lie below the
    observed one. Products are corrected as squares are in `summarize_length`. A resample with no length left has any
    angle: it counts as −1 at the lower end and as 1 at the upper one.
    """
    cosines = [_find_cosines(*pair) for pair in zip(first, second, strict=False)]
    if len(cosines) < 2 or not all(np.isfinite(one).all() for one in cosines):
        return summarize(cosines, count)
    own, other = (np.maximum(0.0, _correct_products(one, one)) for one in (first, second))
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected = np.clip(_correct_products(first, second) / np.sqrt(own * other), -1.0, 1.0)
    low, high = _find_ends(corrected, own * other > 0, bound=1.0)
    value = float(cosines[0][0])
    return Mean(value=value, low=min(low, value), high=max(high, value), n=count)


def summarize_share(part: Measured, whole: Measured, count: int) -> Mean:
    """Summarize ⟨part, whole⟩ / |whole|² of two means by its percentile interval, less its bias; shapes as of cosines.

    Both products are corrected as squares are in `summarize_length`, so that in each resample the shares of parts that
    add up to the whole add up to 1. No interval where noise explains the whole's length: its parts may be any multiple.
    """
    shares = [_find_shares(*pair) for pair in zip(part, whole, strict=False)]
    if len(shares) < 2 or not all(np.isfinite(one).all() for one in shares):
        return summarize(shares, count)
    squares = _correct_products(whole, whole)
    with np.errstate(divide="ignore", invalid="ignore"):
        corrected = _correct_products(part, whole) / squares
        low, high = _find_ends(corrected, squares > 0, bound=np.inf)
    value = float(shares[0][0])
    if not np.isfinite([low, high]).all():
        return Mean(value=value, low=None, high=None, n=count)
    return Mean(value=value, low=min(low, value), high=max(high, value), n=count)


def _find_ends(resampled: Floats, known: NDArray[np.bool_], *, bound: float) -> tuple[float, float]:
    """The ends of a percentile interval, where a resample that is not known lies beyond either: at −bound and bound."""
    low, high = (
        float(np.percentile(np.where(known, resampled, anything), end))
        for anything, end in zip((-bound, bound), ENDS, strict=True)
    )
    return low, high


def _correct_products(first: Measured, second: Measured) -> Floats:
    """⟨first, second⟩ of each resample, less twice what resampling adds to it on average."""
    observed, resampled = (np.einsum("ij,ij->i", *pair) for pair in zip(first[:2], second[:2], strict=True))
    corrected: Floats = resampled - 2 * (resampled.mean() - observed[0])
    return corrected


def _find_cosines(first: Floats, second: Floats) -> Floats:
    """The cosine of each row with the same row of another array; NaN where a length is 0."""
    along = np.einsum("ij,ij->i", first, second)
    with np.errstate(divide="ignore", invalid="ignore"):
        return along / (np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1))


def _find_shares(part: Floats, whole: Floats) -> Floats:
    """⟨part, whole⟩ / |whole|² of each row; NaN where the whole's length is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Floats = np.einsum("ij,ij->i", part, whole) / np.linalg.norm(whole, axis=1) ** 2
    return shares
