"""Position limit of a model: beyond `max_position_embeddings` it runs at positions it was never trained on."""

from __future__ import annotations

from typing import Any

from transformers import BatchFeature

from cmrm.models.multimodal_positions import locate_tokens
from cmrm.models.vlm import VisionLanguageModel

# Rotary scalings that stretch the positions that `max_position_embeddings` counts; others count the stretched ones.
STRETCHING = frozenset({"linear", "dynamic", "yarn"})


def find_position_limit(vlm: VisionLanguageModel) -> int | None:
    """Find the model's context length in positions, with its RoPE scaling; None if its config names none.

    A sliding window is no limit: it moves along. Source: transformers' `modeling_rope_utils`, whose YaRN counts from
    `original_max_position_embeddings` where that is given.
    """
    config = vlm.model.config.get_text_config()
    known = getattr(config, "max_position_embeddings", None)
    if not isinstance(known, int) or known <= 0:
        return None
    return max([known, *(_stretch(scaling, known) for scaling in _list_scalings(config))])


def count_positions_of(vlm: VisionLanguageModel, inputs: BatchFeature) -> list[int]:
    """Count the positions that each rendered prompt: its tokens; fewer for an image under M-RoPE, more for a gap."""
    if "position_ids" in inputs:
        last = inputs["position_ids"].amax(dim=1) - vlm.family.first_position + 1
        reached: list[int] = last.tolist()
        return reached
    tokens: list[int] = inputs["attention_mask"].sum(dim=1).tolist()
    located = locate_tokens(vlm, inputs)
    if located is None:
        return tokens
    furthest = located.amax(dim=0).masked_fill(~inputs["attention_mask"].bool(), -1).amax(dim=1)
    counts: list[int] = (furthest + 1).tolist()
    return counts


def _list_scalings(config: Any) -> list[dict[str, Any]]:
    """List the RoPE parameters of a config, one for each layer type if they differ."""
    found = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if not isinstance(found, dict):
        return []
    nested = [one for one in found.values() if isinstance(one, dict)]
    return nested or [found]


def _stretch(scaling: dict[str, Any], known: int) -> int:
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in STRETCHING:
        return known
    return int(scaling.get("factor", 1.0) * (scaling.get("original_max_position_embeddings") or known))


def limit_new_tokens(vlm: VisionLanguageModel, inputs: BatchFeature, *, most: int) -> list[int]:
    """Limit the new tokens of each answer: `most`, or fewer if the model's positions end before; at least 1.

    The first token is chosen at the prompt's last position and needs none of its own.
    """
    limit = find_position_limit(vlm)
    return [
        most if limit is None else max(1, min(most, limit - count))
        for count in count_positions_of(vlm, inputs)
    ]
