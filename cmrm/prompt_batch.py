"""Prompts ready to be read: whole, or what follows a beginning that has been read already."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from transformers import BatchFeature


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The beginnings of some prompts, as the decoder has read them.

    `layers` holds for each block its keys and values, [prefixes, heads, tokens, head_dim], left-padded, and empty
    tensors for a block that was skipped; `mask` is bool [prefixes, tokens]; `positions` int64 [prefixes] is the
    position of the token that comes next.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    positions: Tensor

    @property
    def tokens(self) -> int:
        """How many tokens the longest of them has."""
        return int(self.mask.shape[1])


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts ready to be read.

    Without a `prefix`, `inputs` are the whole prompts as `render` gives them, on the model's device and padded on the
    left. With one, they are `input_ids` and `attention_mask` of what follows it in each row, still on the host and
    padded on the right, and row i goes on from prefix `owners[i]`, int64 [rows].
    """

    inputs: BatchFeature
    prefix: Prefix | None = None
    owners: Tensor | None = None

    @property
    def rows(self) -> int:
        """How many prompts these are."""
        return int(self.inputs["input_ids"].shape[0])
