"""Labelled directions at one block: length, angles, and how far along one states lie, with bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.rates import Mean
from cmrm.statistics.vector_intervals import (
    Floats,
    draw_counts,
    summarize,
    summarize_cosine,
    summarize_length,
)

Labels = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Samples with their labels [n], and how often each occurs in every resample: within its label, as often as drawn.

    What is measured with the same draws is resampled together. A mean of one sample is not resampled, since all of its
    resamples are the same and would say that it is exact. `ValueError` for no sample.
    """

    harmful: Labels
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.harmful):
            raise ValueError("there is no sample to resample")

    @cached_property
    def counts(self) -> list[Floats]:
        """As observed [1, n], and in the resamples [resamples, n] where there is more than one sample."""
        order = np.argsort(~self.harmful, kind="stable")
        sizes = [int(self.harmful.sum()), int((~self.harmful).sum())]
        counts = []
        for drawn in draw_counts(sizes, seed=self.seed):
            placed = np.empty_like(drawn)
            placed[:, order] = drawn
            counts.append(placed)
        return counts

    def average(self, values: NDArray[Any], rows: NDArray[Any]) -> list[Floats]:
        """The mean of vectors [m, d] of the samples `rows` [m], as observed and in each resample; NaN where none is."""
        if not len(rows):
            return [np.full((len(counts), values.shape[1]), np.nan) for counts in self.counts]
        return [_weigh(counts[:, rows]) @ values.astype(np.float64) for counts in self._resample(len(rows))]

    def subtract(self, values: NDArray[Any], rows: NDArray[Any]) -> list[Floats]:
        """The mean of the harmful vectors less that of the harmless ones, as `average` gives means."""
        harmful = self.harmful[rows]
        fewest = min(int(harmful.sum()), int((~harmful).sum()))
        return [
            (_weigh(counts[:, rows] * harmful) - _weigh(counts[:, rows] * ~harmful))
            @ values.astype(np.float64)
            for counts in self._resample(fewest)
        ]

    def _resample(self, count: int) -> list[Floats]:
        return self.counts if count > 1 else self.counts[:1]


@dataclass(frozen=True, kw_only=True)
class Axis:
    """The line through the mean states of harmless and harmful samples at one block, float64 [hidden] each."""

    harmless: Floats
    harmful: Floats

    @property
    def length(self) -> float:
        """The distance of the two means."""
        return float(np.linalg.norm(self.harmful - self.harmless))

    def project(self, states: NDArray[Any]) -> Floats:
        """How far states [n, hidden] lie along it, [n], in their own unit: 0 at the harmless mean."""
        unit = (self.harmful - self.harmless) / self.length
        return (states.astype(np.float64) - self.harmless) @ unit


def find_axis(states: NDArray[Any], harmful: Labels) -> Axis | None:
    """Find the line through the two means of states [n, hidden]; None without both labels, and for equal means."""
    if not harmful.any() or harmful.all():
        return None
    values = states.astype(np.float64)
    axis = Axis(harmless=values[~harmful].mean(axis=0), harmful=values[harmful].mean(axis=0))
    return axis if axis.length > 0 else None


def measure_length(direction: Sequence[Floats], count: int) -> Mean:
    """Summarize the length of a direction, resampled as `Draws.subtract` does."""
    return summarize_length([np.linalg.norm(one, axis=1) for one in direction], count)


def measure_cosine(first: Sequence[Floats], second: Sequence[Floats], count: int) -> Mean:
    """Summarize the cosine of two vectors, resample by resample."""
    return summarize_cosine(first, second, count)


def measure_places(draws: Draws, along: Floats, rows: NDArray[Any]) -> tuple[Mean, Mean]:
    """Summarize the mean places along an axis of the harmful samples and of the harmless ones among `rows`."""
    found = []
    for label in (True, False):
        chosen = draws.harmful[rows] == label
        means = draws.average(along[chosen, None], rows[chosen])
        found.append(summarize([one[:, 0] for one in means], int(chosen.sum())))
    return found[0], found[1]


def _weigh(counts: Floats) -> Floats:
    """Weights that add up to 1 in each row; NaN where a row has no sample."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return counts / counts.sum(axis=1, keepdims=True)
