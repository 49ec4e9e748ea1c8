"""Whether a model folder's files fit together, found by one prompt when it is loaded and not in the middle of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from cmrm.conditions import Prompt
from cmrm.errors import UserError
from cmrm.images import noise_image
from cmrm.memory import is_out_of_memory
from cmrm.model import VisionLanguageModel, render
from cmrm.passes import count_positions, fewest_logits

# Large enough for every processor to take, small enough to be read in no time.
IMAGE_SIZE = 64


@torch.inference_mode()
def check_folder(vlm: VisionLanguageModel, *, where: str) -> None:
    """Read one prompt with an image and one without; `where` names the model in errors.

    Raises `UserError` that names the file and the field where the model cannot: a processor that makes other image
    tokens than the tower gives, a token that is no image's, a tokenizer that can pad with nothing.
    """
    for image in (noise_image(size=IMAGE_SIZE, seed=0), None):
        try:
            inputs = render(vlm, [Prompt(text="?", image=image)])
            base = vlm.model.base_model
            base(**inputs, **count_positions(vlm, inputs), **fewest_logits(base), use_cache=False)
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return  # whatever needs memory later says so itself
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            kind = "a text" if image is None else "an image"
            fix = next(_find_misfits(vlm), "Check that all of its files are of one model and one revision.")
            raise UserError(f"model.id: {where!r} cannot read {kind}: {said[:200]}. {fix}") from error


def _find_misfits(vlm: VisionLanguageModel) -> Iterator[str]:
    """Name fields that two files of the folder must have in common, and do not."""
    config, processor = vlm.model.config, vlm.processor
    tower = getattr(config, "vision_config", None)
    named: list[tuple[str, Any, str, Any]] = [
        (
            "vision_feature_select_strategy",
            getattr(processor, "vision_feature_select_strategy", None),
            "vision_feature_select_strategy",
            getattr(config, "vision_feature_select_strategy", None),
        ),
        (
            "patch_size",
            getattr(processor, "patch_size", None),
            "vision_config.patch_size",
            getattr(tower, "patch_size", None),
        ),
        (
            "image_token",
            getattr(processor, "image_token_id", None),
            vlm.family.image_token,
            vlm.image_token_id,
        ),
    ]
    for own, given, other, expected in named:
        if given is not None and expected is not None and given != expected:
            yield (
                f"processor_config.json has {own} {given!r} and config.json has {other} {expected!r}: correct the one "
                "that is wrong."
            )
