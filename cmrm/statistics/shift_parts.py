"""Lengths, shares and cosines of the parts of Δ at one block, with bootstrap intervals over anchors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.rates import CONFIDENCE, Mean

# An interval's end is the 25th of them.
RESAMPLES = 1_000
SEED = 0
ENDS = (50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE))

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class PartMeasure:
    """One part's mean vector at a block, each number with its 95 % interval.

    `norm` is its length. `share` is ⟨part, Δ⟩ / |Δ|², what it adds to Δ along Δ: the shares of parts that add up to Δ
    add up to 1, and one may be below 0. `cosine` is that with Δ; None where a length is 0.
    """

    norm: Mean
    share: Mean
    cosine: Mean


def measure_parts(whole: Floats, parts: Mapping[str, Floats]) -> dict[str, PartMeasure]:
    """Measure parts of Δ, given as differences of states [anchors, hidden] with the same anchors in the same order.

    Percentile bootstrap: all parts are resampled by the same draws of anchors. What differs between anchors makes the
    length of their mean too long, and that of a resample's mean twice so, which is taken out of a length's interval.
    Without a second anchor there are no intervals. `ValueError` for other shapes, and for no anchor.
    """
    count = len(whole)
    if count == 0 or any(one.shape != whole.shape for one in parts.values()):
        raise ValueError("the parts of Δ need the same anchors, at least one")
    draws = [np.full((1, count), 1 / count), *_draw(count)]
    totals = [draw @ whole for draw in draws]
    return {name: _measure([draw @ one for draw in draws], totals, count) for name, one in parts.items()}


def _draw(count: int) -> Iterator[Floats]:
    """The weights of anchors in each resample, [resamples, anchors]."""
    if count > 1:
        drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
        yield drawn / count


def _measure(means: list[Floats], totals: list[Floats], count: int) -> PartMeasure:
    found = [_compute(mean, total) for mean, total in zip(means, totals, strict=True)]
    norm, share, cosine = (
        _summarize(found[0][place][0], found[1][place] if count > 1 else None, count) for place in range(3)
    )
    if count > 1:
        norm = _find_length(found[0][0][0], found[1][0], count)
    return PartMeasure(norm=norm, share=share, cosine=cosine)


def _compute(mean: Floats, total: Floats) -> tuple[Floats, Floats, Floats]:
    """Length, share and cosine of each row."""
    norm, length = np.linalg.norm(mean, axis=1), np.linalg.norm(total, axis=1)
    along = np.einsum("ij,ij->i", mean, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        return norm, along / length**2, along / (norm * length)


def _find_length(value: float, resampled: Floats, count: int) -> Mean:
    """Percentile interval of a length, less its bias.

    In squares, the mean of n anchors is too long by the trace of their covariance / n, and the mean of a resample by
    that once more: the second shows in the resamples, and both are subtracted.
    """
    squares = resampled**2
    excess = 2 * max(0.0, float(squares.mean()) - value**2)
    low, high = np.sqrt(np.maximum(0.0, np.percentile(squares, ENDS) - excess))
    # Of short and noisy vectors, the length that was observed may lie above all that is left.
    return Mean(
        value=float(value), low=min(float(low), float(value)), high=max(float(high), float(value)), n=count
    )


def _summarize(value: float, resampled: Floats | None, count: int) -> Mean:
    if not np.isfinite(value):
        return Mean(value=None, low=None, high=None, n=count)
    if resampled is None or not np.isfinite(resampled).all():
        return Mean(value=float(value), low=None, high=None, n=count)
    ends = np.percentile(resampled, ENDS)
    return Mean(value=float(value), low=float(ends[0]), high=float(ends[1]), n=count)
