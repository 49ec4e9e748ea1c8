"""What a pass over prompts is given besides their tokens: positions, and how few logits it may make."""

from __future__ import annotations

from inspect import signature

from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.model import VisionLanguageModel, position_ids


def count_positions(vlm: VisionLanguageModel, inputs: BatchFeature) -> dict[str, Tensor]:
    """Positions as generation counts them; nothing where the model has to work them out from the image's grid."""
    if vlm.family.positions == "multimodal" and "pixel_values" in inputs:
        return {}
    return {"position_ids": position_ids(inputs["attention_mask"], first=vlm.family.first_position)}


def fewest_logits(base: nn.Module) -> dict[str, int]:
    """Some models are their own base; those are asked for the last token's logits, not for every one's."""
    return {"logits_to_keep": 1} if "logits_to_keep" in signature(base.forward).parameters else {}
