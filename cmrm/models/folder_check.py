"""Smoke test of a loaded model folder: one prompt finds files that do not match, before the run starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from cmrm.errors import UserError
from cmrm.models.forward_arguments import run_without_head
from cmrm.models.oom import is_out_of_memory
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image

# Large enough for every processor, small enough to take no time.
IMAGE_SIZE = 64


@torch.inference_mode()
def check_folder(vlm: VisionLanguageModel, *, where: str) -> None:
    """Run one prompt with an image and one without; `where` names the model in errors.

    Raises `UserError` naming the file and the field if the model fails: a processor whose number of image tokens is not
    the vision tower's, a wrong image token, a tokenizer without a padding token.
    """
    for image in (noise_image(size=IMAGE_SIZE, seed=0), None):
        try:
            inputs = render(vlm, [Prompt(text="?", image=image)])
            run_without_head(vlm, inputs)
        except UserError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                return  # an OOM is handled where the run needs the memory
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            kind = "a text" if image is None else "an image"
            fix = next(_find_misfits(vlm), "Check that all of its files are of one model and one revision.")
            raise UserError(f"model.id: {where!r} cannot read {kind}: {said[:200]}. {fix}") from error


def _find_misfits(vlm: VisionLanguageModel) -> Iterator[str]:
    """Name the fields that must be equal in two files of the folder, and are not."""
    config, processor = vlm.model.config, vlm.processor
    image_token = getattr(processor, "image_token", None)
    if isinstance(image_token, str):
        read_as = processor.tokenizer(image_token, add_special_tokens=False)["input_ids"]
        if len(read_as) > 1:
            yield (
                f"The tokenizer splits {image_token} into {len(read_as)} tokens: tokenizer.json lacks it among its "
                "added_tokens. Take the tokenizer.json of the published model."
            )
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
