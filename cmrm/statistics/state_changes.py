"""How far two models' states of the same prompts lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class StateChange:
    """States after against states before, over samples: means, and the least cosine; None where a state has no length.

    `relative` is the length of the difference in units of the state before; `shift` the length of the mean difference.
    """

    samples: int
    length: float
    cosine: float | None
    least_cosine: float | None
    relative: float | None
    shift: float


def measure_change(before: NDArray[np.floating], after: NDArray[np.floating]) -> StateChange:
    """Compare states [samples, width] of the same samples, in double precision; `ValueError` for other shapes."""
    if before.shape != after.shape or before.ndim != 2 or not len(before):
        raise ValueError(f"states of shapes {before.shape} and {after.shape} are not of the same samples")
    old, new = before.astype(np.float64), after.astype(np.float64)
    lengths, others = np.linalg.norm(old, axis=1), np.linalg.norm(new, axis=1)
    defined = bool(np.all(lengths > 0) and np.all(others > 0))
    cosines = (old * new).sum(axis=1) / (lengths * others) if defined else None
    return StateChange(
        samples=len(old),
        length=float(lengths.mean()),
        cosine=None if cosines is None else float(cosines.mean()),
        least_cosine=None if cosines is None else float(cosines.min()),
        relative=float((np.linalg.norm(new - old, axis=1) / lengths).mean()) if defined else None,
        shift=float(np.linalg.norm((new - old).mean(axis=0))),
    )
