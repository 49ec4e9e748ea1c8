"""Read prompts up to their last token, which is where the ways of answering them part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from cmrm.capture import fewest_logits
from cmrm.model import VisionLanguageModel, last_prompt_positions, position_ids
from cmrm.prefix import PromptBatch


@dataclass(frozen=True, kw_only=True)
class Filled:
    """Prompts that were read but for their last tokens.

    `layers` holds for each block the keys and values [rows, heads, columns, head_dim]; `visible`, bool [rows, columns],
    says which of the columns hold a token of the row. `tokens` are the last tokens, int64 [rows], and `positions` are
    theirs.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    visible: Tensor
    tokens: Tensor
    positions: Tensor


def prefill(vlm: VisionLanguageModel, batch: PromptBatch) -> Filled:
    """Read a batch of prompts but for their last tokens, without logits."""
    mask = batch.inputs["attention_mask"]
    rows = torch.arange(mask.shape[0], device=mask.device)
    last = last_prompt_positions(mask)
    tokens = batch.inputs["input_ids"][rows, last]
    shorter = {
        # Of two axes or more, all that goes by tokens has them second.
        name: value[:, :-1] if torch.is_tensor(value) and value.shape[:2] == mask.shape else value
        for name, value in batch.inputs.items()
    }
    base = vlm.model.base_model
    cache = DynamicCache()
    first = vlm.family.first_position
    multimodal = vlm.family.positions == "multimodal" and "pixel_values" in batch.inputs
    positions = {} if multimodal else {"position_ids": position_ids(shorter["attention_mask"], first=first)}
    base(**shorter, **positions, **fewest_logits(base), past_key_values=cache, use_cache=True)
    following = mask.sum(dim=1) - 1 + first
    if multimodal:
        # What an image takes less in positions than in tokens, which the pass has left there.
        following = following + base.rope_deltas.reshape(-1).to(following.device)
    return Filled(
        layers=list_layers(cache),
        visible=shorter["attention_mask"].bool(),
        tokens=tokens,
        positions=following,
    )


def list_layers(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """The keys and values of each block in a cache, [rows, heads, columns, head_dim]."""
    pairs: list[tuple[Any, Any]] = [
        (getattr(layer, "keys", None), getattr(layer, "values", None)) for layer in cache.layers
    ]
    return pairs
