"""Positions of several axes a token (M-RoPE), which a model computes from the grids of its images and videos."""

from __future__ import annotations

from inspect import signature
from typing import TYPE_CHECKING

from torch import Tensor
from transformers import BatchFeature

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel

# What a processor makes of images, of videos and of sound, beside their grids.
MEDIA = ("pixel_values", "pixel_values_videos", "input_features")
# The method by which models of transformers compute the positions that their own forward pass uses.
METHOD = "get_rope_index"


def shows_media(vlm: VisionLanguageModel, inputs: BatchFeature) -> bool:
    """Whether the model computes the positions of these prompts from what they show."""
    return vlm.family.positions == "multimodal" and any(name in inputs for name in MEDIA)


def locate_tokens(vlm: VisionLanguageModel, inputs: BatchFeature) -> Tensor | None:
    """Find the positions of rendered prompts, int64 [axes, rows, tokens]; None where they are counted one a token.

    On text all axes are equal, and on padding they mean nothing.
    """
    compute = getattr(vlm.model.base_model, METHOD, None)
    if compute is None or not shows_media(vlm, inputs):
        return None
    taken = {name: inputs[name] for name in signature(compute).parameters if name in inputs}
    positions: Tensor = compute(**taken)[0]
    return positions
