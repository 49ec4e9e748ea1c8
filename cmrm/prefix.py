"""What the prompts of a batch have in common, read once: the shared beginning of their key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.model import VisionLanguageModel, render


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """The beginnings of some prompts, as the decoder has read them.

    `layers` holds for each block its keys and values, [prefixes, heads, tokens, head_dim], left-padded; `mask` is bool
    [prefixes, tokens]; `positions` int64 [prefixes] is the position of the token that comes next.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    positions: Tensor


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """Prompts on the model's device, ready to be read.

    Without a `prefix`, `inputs` are the whole prompts as `render` gives them, padded on the left. With one, they are
    `input_ids` and `attention_mask` of what follows it in each row, padded on the right, and row i goes on from prefix
    `owners[i]`, int64 [rows].
    """

    inputs: BatchFeature
    prefix: Prefix | None = None
    owners: Tensor | None = None

    @property
    def rows(self) -> int:
        """How many prompts these are."""
        return int(self.inputs["input_ids"].shape[0])


class Prefixes:
    """Finds what prompts share, and keeps for the next batch what all prompts on one image, or on none, share."""

    def __init__(self, vlm: VisionLanguageModel) -> None:
        self._vlm = vlm

    def lay_out(self, prompts: Sequence[Prompt]) -> PromptBatch:
        """Render prompts, what they share cut off and read once where that saves work."""
        return PromptBatch(inputs=render(self._vlm, prompts))
