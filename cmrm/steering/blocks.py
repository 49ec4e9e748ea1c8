"""Which decoder blocks a word such as `upper_half` means. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from cmrm.errors import UserError

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel

BlockWord = Literal["upper_half", "middle", "last", "all"]


def choose_blocks(vlm: VisionLanguageModel, blocks: str | Sequence[int]) -> tuple[int, ...]:
    """The blocks that a `BlockWord` or numbers mean; raises `UserError` for one that the model does not have."""
    count = len(vlm.blocks)
    if blocks == "all":
        return tuple(range(count))
    if blocks == "upper_half":
        return tuple(range(count // 2, count))
    if blocks == "middle":
        return (count // 2,)
    if blocks == "last":
        return (count - 1,)
    if isinstance(blocks, str):
        raise UserError(
            f"interventions.blocks: {blocks!r} is none of upper_half, middle, last, all; give one of them, or numbers."
        )
    check_blocks(blocks)
    chosen = tuple(int(block) for block in blocks)
    for block in (chosen[0], chosen[-1]):
        if not 0 <= block < count:
            raise UserError(
                f"interventions.blocks: no block {block} in this model; it has blocks 0 to {count - 1}."
            )
    return chosen


def check_blocks(blocks: str | Sequence[int]) -> None:
    """Raise `UserError` for numbers that are not distinct and ascending from 0 on; a word passes."""
    if isinstance(blocks, str):
        return
    if not blocks or list(blocks) != sorted(set(blocks)):
        raise UserError(
            f"interventions.blocks: {list(blocks)} are not distinct and ascending, at least one; sort them."
        )
    if blocks[0] < 0:
        raise UserError(f"interventions.blocks: no block {blocks[0]}; blocks are counted from 0.")
