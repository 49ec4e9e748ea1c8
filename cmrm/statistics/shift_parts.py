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

    Percentile bootstrap: all parts are resampled by the same draws of anchors. Without a second anchor there are no
    intervals. `ValueError` for other shapes, and for no anchor.
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
    return PartMeasure(norm=norm, share=share, cosine=cosine)


def _compute(mean: Floats, total: Floats) -> tuple[Floats, Floats, Floats]:
    """Length, share and cosine of each row."""
    norm, length = np.linalg.norm(mean, axis=1), np.linalg.norm(total, axis=1)
    along = np.einsum("ij,ij->i", mean, total)
    with np.errstate(divide="ignore", invalid="ignore"):
        return norm, along / length**2, along / (norm * length)


def _summarize(value: float, resampled: Floats | None, count: int) -> Mean:
    if not np.isfinite(value):
        return Mean(value=None, low=None, high=None, n=count)
    if resampled is None or not np.isfinite(resampled).all():
        return Mean(value=float(value), low=None, high=None, n=count)
    ends = np.percentile(resampled, [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Mean(value=float(value), low=float(ends[0]), high=float(ends[1]), n=count)
