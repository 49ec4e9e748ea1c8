"""Compare the shift Δ of two models block by block: lengths and cosine similarity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class BlockChange:
    """Δ of one block before and after: both norms, and their cosine similarity, None if a norm is 0."""

    block: int
    cosine: float | None
    before: float
    after: float

    def to_json(self) -> dict[str, Any]:
        """Convert the change to plain JSON types."""
        return asdict(self)


def compare_blocks(
    before: Mapping[int, NDArray[Any]], after: Mapping[int, NDArray[Any]]
) -> tuple[BlockChange, ...]:
    """Compare two shifts given as vectors [hidden] by block, in the order of the blocks.

    Raises `ValueError` for shifts of different blocks or widths, and for NaN or inf.
    """
    shapes = [_describe(side) for side in (before, after)]
    if set(before) != set(after) or shapes[0] != shapes[1]:
        raise ValueError(f"it has {shapes[0]} before and {shapes[1]} after")
    return tuple(_compare(block, before[block], after[block]) for block in sorted(before))


def _compare(block: int, before: NDArray[Any], after: NDArray[Any]) -> BlockChange:
    old, new = before.astype(np.float64), after.astype(np.float64)
    if not (np.isfinite(old).all() and np.isfinite(new).all()):
        raise ValueError(f"it is not finite at block {block}")
    lengths = float(np.linalg.norm(old)), float(np.linalg.norm(new))
    cosine = None
    if all(lengths):
        # Unit vectors first: the product of two lengths may overflow or vanish where neither does.
        cosine = float(np.clip((old / lengths[0]) @ (new / lengths[1]), -1.0, 1.0))
    return BlockChange(block=block, cosine=cosine, before=lengths[0], after=lengths[1])


def _describe(shift: Mapping[int, NDArray[Any]]) -> str:
    widths = sorted({len(vector) for vector in shift.values()})
    blocks = f"blocks {min(shift)} to {max(shift)}" if shift else "no block"
    return f"{len(shift)} vectors ({blocks}) of width {', '.join(map(str, widths)) or 'none'}"
