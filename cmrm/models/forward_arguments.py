"""A forward pass without the head, and its arguments besides tokens: position ids, and `logits_to_keep`."""

from __future__ import annotations

from inspect import signature
from typing import Any

from torch import Tensor, nn
from transformers import BatchFeature, Cache

from cmrm.models.multimodal_positions import shows_media
from cmrm.models.vlm import VisionLanguageModel


def run_without_head(vlm: VisionLanguageModel, inputs: BatchFeature, *, cache: Cache | None = None) -> None:
    """Run the model on rendered prompts for what hooks see, or what an empty KV cache takes: no logits are made."""
    base = vlm.model.base_model
    kept: dict[str, Any] = {"use_cache": False}
    if cache is not None:
        kept = {"use_cache": True, "past_key_values": cache}
    base(**inputs, **count_positions(vlm, inputs), **_fewest_logits(base), **kept)


def count_positions(vlm: VisionLanguageModel, inputs: BatchFeature) -> dict[str, Tensor]:
    """Make `position_ids` as in generation; empty where `inputs` hold them.

    Empty for M-RoPE as well, where the model computes them from the image's grid.
    """
    if "position_ids" in inputs:
        return {}
    if shows_media(vlm, inputs):
        return {}
    return {"position_ids": position_ids(inputs["attention_mask"], first=vlm.family.first_position)}


def position_ids(attention_mask: Tensor, *, first: int = 0) -> Tensor:
    """Count positions over real tokens only, so that padding does not shift them: int64 [rows, tokens]."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0) + first


def _fewest_logits(base: nn.Module) -> dict[str, int]:
    """Make `logits_to_keep` for models that are their own base, so that only the last token's logits are computed."""
    return {"logits_to_keep": 1} if "logits_to_keep" in signature(base.forward).parameters else {}
