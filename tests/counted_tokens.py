"""Count what a block's feed-forward is given, without a hook: with one a block is run to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor

from cmrm.models.vlm import VisionLanguageModel


@contextmanager
def counted(vlm: VisionLanguageModel, block: int) -> Iterator[list[int]]:
    """Tokens that the feed-forward of a block is given in each call, counted without a hook."""
    counts: list[int] = []
    module = vlm.blocks[block].mlp
    run: Callable[[Tensor], Tensor] = module.forward

    def count(hidden: Tensor) -> Tensor:
        counts.append(hidden.shape[0] * hidden.shape[1])
        return run(hidden)

    module.forward = count
    try:
        yield counts
    finally:
        del module.forward
