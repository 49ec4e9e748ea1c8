"""The tokens of a prompt that stand for its image."""

from __future__ import annotations

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
    """Find the tokens that hold image features: bool [rows, tokens].

    Those of all tiles count, and so do LLaVA-NeXT's learned line ends, which are among the features; marks of the
    template (row and tile marks, begin and end of an image) do not.
    """
    return (inputs["input_ids"] == vlm.image_token_id) & inputs["attention_mask"].bool()
