"""Lengths, shares and cosines of the parts of Δ at one block, with bootstrap intervals over anchors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmrm.statistics.rates import Mean
from cmrm.statistics.vector_intervals import (
    Floats,
    draw_counts,
    summarize_cosine,
    summarize_length,
    summarize_share,
)


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
    products of their means too large, and those of a resample's means twice so, which is taken out of all intervals.
    Without a second anchor there are no intervals. `ValueError` for other shapes, and for no anchor.
    """
    count = len(whole)
    if count == 0 or any(one.shape != whole.shape for one in parts.values()):
        raise ValueError("the parts of Δ need the same anchors, at least one")
    draws = [counts / count for counts in draw_counts([count])]
    totals = [draw @ whole for draw in draws]
    return {name: _measure([draw @ one for draw in draws], totals, count) for name, one in parts.items()}


def _measure(means: Sequence[Floats], totals: Sequence[Floats], count: int) -> PartMeasure:
    return PartMeasure(
        norm=summarize_length([np.linalg.norm(mean, axis=1) for mean in means], count),
        share=summarize_share(means, totals, count),
        cosine=summarize_cosine(means, totals, count),
    )
