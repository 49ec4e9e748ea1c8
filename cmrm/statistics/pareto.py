"""Pareto fronts, among them that of safety and utility over the strength α, and the α that keeps a bound on cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from cmrm.errors import UserError

# Floating-point tolerance, so that a value equal to the bound keeps it.
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """Measurements at one strength α: fractions `unsafe` and `over_refusal`, and utility in its own unit.

    None stands for a quantity that was not measured.
    """

    alpha: float
    unsafe: float | None
    utility: float | None
    over_refusal: float | None

    def __post_init__(self) -> None:
        if not (isfinite(self.alpha) and self.alpha >= 0.0):
            raise ValueError(f"a curve's strength is {self.alpha}; it must be 0 or more")
        for name in ("unsafe", "utility", "over_refusal"):
            value = getattr(self, name)
            if value is not None and not isfinite(value):
                raise ValueError(
                    f"{name} at strength {self.alpha} is {value}; give None for what was not measured"
                )


def find_front(points: Sequence[CurvePoint]) -> tuple[float, ...]:
    """Find the Pareto-optimal strengths, ascending: no other is as safe and as useful, and better in one of the two.

    Points without an unsafe rate or a utility are neither on the front nor dominate others. Raises `ValueError` for
    duplicate strengths.
    """
    measured = [
        (point.alpha, point.unsafe, point.utility)
        for point in _order(points)
        if point.unsafe is not None and point.utility is not None
    ]
    front = find_undominated([(unsafe, -utility) for _, unsafe, utility in measured])
    return tuple(measured[place][0] for place in front)


def find_undominated(costs: Sequence[tuple[float, ...]]) -> list[int]:
    """Find the places of the points that no other point beats: as low in every cost, and lower in one."""
    return [
        place
        for place, own in enumerate(costs)
        if not any(
            other != own and all(one <= limit for one, limit in zip(other, own, strict=True))
            for other in costs
        )
    ]


def choose_strength(
    points: Sequence[CurvePoint], *, utility_loss: float, over_refusal: float | None
) -> float | None:
    """Choose the safest strength that costs no more than allowed, the smaller of equally safe ones.

    Utility may fall by `utility_loss`, in utility's own unit, below that of the smallest strength (0 if it was
    measured); the over-refusal rate may reach `over_refusal`, without limit if that is None. A missing measurement
    keeps no bound. None if no strength keeps both. Raises `UserError` for a negative bound, and `ValueError` for
    duplicate strengths.
    """
    for name, bound in (("utility_loss", utility_loss), ("over_refusal", over_refusal)):
        if bound is not None and not bound >= 0.0:
            raise UserError(f"{name} is {bound}; a bound on what may be lost is 0 or more")
    ordered = _order(points)
    if not ordered or ordered[0].utility is None:
        return None
    least = ordered[0].utility - utility_loss
    kept = [
        (point.unsafe, point.alpha)
        for point in ordered
        if point.unsafe is not None
        and _reaches(point.utility, least)
        and (over_refusal is None or _stays_within(point.over_refusal, over_refusal))
    ]
    return min(kept)[1] if kept else None


def _reaches(value: float | None, least: float) -> bool:
    return value is not None and value >= least - TOLERANCE * max(1.0, abs(least))


def _stays_within(value: float | None, most: float) -> bool:
    return value is not None and value <= most + TOLERANCE


def _order(points: Sequence[CurvePoint]) -> list[CurvePoint]:
    ordered = sorted(points, key=lambda point: point.alpha)
    for smaller, larger in pairwise(ordered):
        if smaller.alpha == larger.alpha:
            raise ValueError(
                f"strength {smaller.alpha} is given twice; a curve has one point at each strength"
            )
    return ordered
