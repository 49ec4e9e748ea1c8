"""Overhead of an intervention: ratio of its seconds to those of the baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cmrm.statistics.rates import Mean, resample


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Seconds a sample of one arm, and their ratio to the baseline's, with 95 % bootstrap intervals.

    `n` counts the batches; `ratio` is None for the baseline itself, and an interval is None with too few batches.
    """

    seconds: Mean
    ratio: float | None
    low: float | None
    high: float | None
    n: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Cost:
        return cls(**{**content, "seconds": Mean(**content["seconds"])})


def measure_cost(seconds: Sequence[float], plain: Sequence[float] | None) -> Cost:
    """Compare seconds a sample of the same batches in the same order; `plain` is None for the baseline itself.

    The interval of the ratio of means resamples batches in pairs (percentile bootstrap).
    """
    own = Mean.of(seconds)
    if plain is None or not seconds:
        return Cost(seconds=own, ratio=None, low=None, high=None, n=len(seconds))
    low, high = resample(
        (np.asarray(seconds), np.asarray(plain)), lambda a, b, axis: a.mean(axis=axis) / b.mean(axis=axis)
    ) or (None, None)
    ratio = float(np.mean(seconds) / np.mean(plain))
    return Cost(seconds=own, ratio=ratio, low=low, high=high, n=len(seconds))
