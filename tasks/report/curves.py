"""Curves over the strength α, and the α that a bound selects, evaluated on held-out samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cmrm.datasets.splits import draw
from cmrm.statistics.paired_tests import compare_verdicts
from cmrm.statistics.pareto import CurvePoint, choose_strength, find_front
from cmrm.statistics.rates import Mean, Rate
from tasks.report.outcomes import Arm, Kind, Outcomes, Values, keep_measured, keep_pairs, rate_measured
from tasks.report.table import find_baseline

# The fewest strengths of a curve.
FEWEST = 3
# Seed of the draw that splits the questions into a selection half and a held-out half.
SEED = 20_241_009

Mask = NDArray[np.bool_]


def make_curves(
    outcomes: Outcomes, *, interventions: Sequence[str], utility_loss: float, over_refusal: float | None
) -> list[dict[str, Any]]:
    """Make a curve for each model and intervention with three strengths or more, as JSON types.

    Each has its `points` (over all samples), its Pareto `front`, and the `choice`: the strength that one half of the
    questions selects under the bound, with its effect on the other half.
    """
    picks = np.array([draw(sample.split_by, seed=SEED) < 0.5 for sample in outcomes.samples], dtype=bool)
    bound = {"utility_loss": utility_loss, "over_refusal": over_refusal}
    curves = []
    for model in dict.fromkeys(arm.model for arm in outcomes.arms):
        for name in interventions:
            arms = _find_arms(outcomes, model, name)
            if len(arms) < FEWEST:
                continue
            everything = np.ones(len(picks), dtype=bool)
            points = [_measure(outcomes, arm, alpha, everything) for alpha, arm in arms.items()]
            curves.append(
                {
                    "model": model,
                    "intervention": name,
                    "points": [
                        {"alpha": alpha, **_describe(outcomes, arm, everything)}
                        for alpha, arm in arms.items()
                    ],
                    "front": list(find_front(points)),
                    "choice": _choose(outcomes, arms, picks, bound),
                }
            )
    return curves


def _find_arms(outcomes: Outcomes, model: str, name: str) -> dict[float, Arm]:
    """The arms of one intervention by ascending strength; α = 0 is the baseline unless it was measured itself.

    Those on the samples' own images if there are any, else those of its first condition.
    """
    known = [
        arm
        for arm in outcomes.arms
        if arm.model == model and arm.intervention == name and arm.alpha is not None
    ]
    condition = min((arm.condition for arm in known), key=lambda one: one != "image", default="image")
    own = {arm.alpha: arm for arm in known if arm.alpha is not None and arm.condition == condition}
    if own and 0.0 not in own:
        baseline = find_baseline(next(iter(own.values())), outcomes.arms)
        if baseline is not None:
            own[0.0] = baseline
    return dict(sorted(own.items()))


def _choose(
    outcomes: Outcomes, arms: Mapping[float, Arm], picks: Mask, bound: Mapping[str, float | None]
) -> dict[str, Any]:
    points = [_measure(outcomes, arm, alpha, picks) for alpha, arm in arms.items()]
    loss = bound["utility_loss"] or 0.0
    if _uses_scores(outcomes):
        # Scores have no common scale: the allowed loss is relative to the baseline.
        loss *= abs(points[0].utility or 0.0)
    alpha = choose_strength(points, utility_loss=loss, over_refusal=bound["over_refusal"])
    chosen: dict[str, Any] = {
        **bound,
        "alpha": alpha,
        "from": min(arms),
        "before": None,
        "after": None,
        "change": None,
    }
    if alpha is not None:
        before, after = arms[min(arms)], arms[alpha]
        pairs = keep_pairs(
            *(np.where(picks, np.nan, outcomes.pool(arm, "unsafe")) for arm in (before, after))
        )
        chosen["before"] = _describe(outcomes, before, ~picks)
        chosen["after"] = _describe(outcomes, after, ~picks)
        chosen["change"] = compare_verdicts(*([one > 0 for one in side] for side in pairs)).to_json()
    return chosen


def _measure(outcomes: Outcomes, arm: Arm, alpha: float, mask: Mask) -> CurvePoint:
    def rate(kind: Kind) -> float | None:
        return rate_measured(outcomes.pool(arm, kind)[mask]).value

    return CurvePoint(
        alpha=alpha,
        unsafe=rate("unsafe"),
        utility=_measure_utility(outcomes, arm, mask).value,
        over_refusal=rate("over_refusal"),
    )


def _uses_scores(outcomes: Outcomes) -> bool:
    """Whether utility is a mean score: where no judge marks answers as correct or incorrect."""
    kinds = {column.kind for column in outcomes.columns()}
    return "score" in kinds and "utility" not in kinds


def _measure_utility(outcomes: Outcomes, arm: Arm, mask: Mask) -> Rate | Mean:
    if _uses_scores(outcomes):
        return Mean.of(keep_measured(outcomes.pool(arm, "score")[mask]))
    return rate_measured(outcomes.pool(arm, "utility")[mask])


def _describe(outcomes: Outcomes, arm: Arm, mask: Mask) -> dict[str, Any]:
    def rate(values: Values) -> dict[str, Any]:
        return asdict(rate_measured(values[mask]))

    safety = [column for column in outcomes.columns() if column.kind == "unsafe"]
    by_set = {one.dataset: rate(outcomes.get(arm, one)) for one in safety if one.judge == safety[0].judge}
    return {
        "unsafe": rate(outcomes.pool(arm, "unsafe")),
        "unsafe_by_dataset": by_set,
        "utility": asdict(_measure_utility(outcomes, arm, mask)),
        "over_refusal": rate(outcomes.pool(arm, "over_refusal")),
    }
