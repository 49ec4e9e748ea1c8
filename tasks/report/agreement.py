"""Inter-judge agreement (Cohen's κ) on the same answers."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmrm.statistics.paired_tests import agree
from cmrm.statistics.rates import resample
from tasks.report.outcomes import Kind, Outcomes, Values

COMPARED: tuple[Kind, ...] = ("unsafe", "utility", "over_refusal")
RESAMPLES = 999


def describe_agreement(outcomes: Outcomes) -> list[dict[str, Any]]:
    """Measure agreement per model, pair of judges and kind of verdict that both gave, over all answers of the model.

    Answers to one question are correlated, so the interval of κ resamples questions and not answers.
    """
    records = []
    for kind in COMPARED:
        judges = dict.fromkeys(column.judge for column in outcomes.columns() if column.kind == kind)
        for first, second in combinations(judges, 2):
            for model in dict.fromkeys(arm.model for arm in outcomes.arms):
                arms = [arm for arm in outcomes.arms if arm.model == model]
                sides = [
                    np.stack([outcomes.pool(arm, kind, judge) for arm in arms]) for judge in (first, second)
                ]
                both = ~(np.isnan(sides[0]) | np.isnan(sides[1]))
                found = agree(*([bool(one) for one in side[both]] for side in sides))
                if not found.n:
                    continue
                if found.low is not None:
                    low, high = _resample_questions(sides[0], sides[1], both)
                    found = replace(found, low=low, high=high)
                records.append(
                    {"model": model, "kind": kind, "first": first, "second": second, **found.to_json()}
                )
    return records


def _resample_questions(
    first: Values, second: Values, both: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """The 95 % percentile bootstrap interval of κ over questions, from [arms, samples]; None for fewer than two."""
    # Per question, how many of its answers both call true, one alone, the other alone, and neither.
    cells = [(first > 0) & (second > 0), (first > 0) & ~(second > 0), ~(first > 0) & (second > 0)]
    cells.append(~(first > 0) & ~(second > 0))
    counts = np.stack([(cell & both).sum(axis=0) for cell in cells], axis=1)
    counts = counts[counts.sum(axis=1) > 0]

    def find_kappa(rows: NDArray[np.int64]) -> float:
        yes, one, other, no = counts[rows].sum(axis=0)
        n = yes + one + other + no
        chance = ((yes + one) * (yes + other) + (no + one) * (no + other)) / n**2
        # Where chance alone would always agree, so do the judges.
        return float(((yes + no) / n - chance) / (1 - chance)) if chance < 1 else 1.0

    return resample((np.arange(len(counts)),), find_kappa, resamples=RESAMPLES) or (None, None)
