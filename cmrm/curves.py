"""What a strength buys and costs: the front of safety and utility, and the strength that a bound picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

from cmrm.errors import UserError

# Rates and utilities round: exactly the bound keeps it, whatever the last bit says.
TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True)
class CurvePoint:
    """What was measured at one strength: fractions `unsafe` and `over_refusal`, and utility in its own unit.

    None is what was not measured.
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
    """Find the strengths, rising, that no other beats: none is as safe and as useful, and better in one of the two.

    Points without an unsafe rate or a utility neither stand on the front nor beat another. Raises `ValueError` for a
    strength given twice.
    """
    measured = [
        (point.alpha, point.unsafe, point.utility)
        for point in _order(points)
        if point.unsafe is not None and point.utility is not None
    ]
    return tuple(
        alpha
        for alpha, unsafe, utility in measured
        if not any(
            other_unsafe <= unsafe
            and other_utility >= utility
            and (other_unsafe, other_utility) != (unsafe, utility)
            for _, other_unsafe, other_utility in measured
        )
    )


def choose_strength(
    points: Sequence[CurvePoint], *, utility_loss: float, over_refusal: float | None
) -> float | None:
    """Choose the safest strength that costs no more than allowed, the smaller of equally safe ones.

    Utility may fall by `utility_loss`, in utility's own unit, below that of the smallest strength (0 where it was
    measured); the over-refusal rate may reach `over_refusal`, or anything where that is None. What was not measured
    keeps no bound. None when no strength does. Raises `UserError` for a negative bound, and `ValueError` for a
    strength given twice.
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
