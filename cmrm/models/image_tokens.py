"""The tokens of a prompt that stand for its image, or for any other medium."""

from __future__ import annotations

from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from cmrm.models.families import Family

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import BatchFeature

    from cmrm.models.vlm import VisionLanguageModel


def explain_no_image_tokens(family: Family) -> str | None:
    """Explain why no token of this family's prompts is the image's; None if some are."""
    if family.image_only_blocks is None:
        return None
    return f"{family.model_type} shows its image by cross-attention, so its prompts have no image tokens; leave it out"


def find_image_tokens(vlm: VisionLanguageModel, inputs: BatchFeature) -> Tensor:
    """Find the tokens that hold features of an image, a video or a sound: bool [rows, tokens].

    Those of all tiles count, and so do LLaVA-NeXT's learned line ends, which are among the features; marks of the
    template (row and tile marks, begin and end of an image) do not.
    """
    return is_medium(vlm, inputs["input_ids"]) & inputs["attention_mask"].bool()


def is_medium(vlm: VisionLanguageModel, input_ids: Tensor) -> Tensor:
    """Mark the placeholder tokens of images and of other media, bool of the ids' shape."""
    # One comparison each: a tensor of the few ids would have to be copied to the device.
    return reduce(or_, (input_ids == token for token in vlm.medium_tokens))
