"""How long all checks will take on a model here, from one prompt and a few generated tokens."""

from __future__ import annotations

import time

import torch

from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image

# What the checks come to: so many prompts with an image, one at a time, and decoding steps.
PROMPTS, STEPS = 300, 128
QUESTION = "What is it?"
# Tokens generated to time a step.
TIMED = 4


@torch.inference_mode()
def estimate_seconds(vlm: VisionLanguageModel, *, image_size: int | None = None) -> float:
    """Estimate the time of all checks in seconds, for images `image_size` pixels square, or of the family's size.

    Batches make them faster than that, above all on a GPU. Raises whatever the model raises.
    """
    size = vlm.family.image_size if image_size is None else image_size
    image = None if vlm.text_only else noise_image(size=size, seed=0)
    inputs = render(vlm, [Prompt(text=QUESTION, image=image)])
    # The first pass on a GPU also loads its kernels.
    _generate(vlm, inputs, tokens=1)
    prompt = _generate(vlm, inputs, tokens=1)
    step = (_generate(vlm, inputs, tokens=1 + TIMED) - prompt) / TIMED
    return PROMPTS * prompt + STEPS * max(0.0, step)


def _generate(vlm: VisionLanguageModel, inputs: object, *, tokens: int) -> float:
    started = time.monotonic()
    found = vlm.model.generate(
        **inputs,  # type: ignore[arg-type] # transformers has no usable type for it
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
    )
    # Reading a number waits for the device.
    found[0, -1].item()
    return time.monotonic() - started
