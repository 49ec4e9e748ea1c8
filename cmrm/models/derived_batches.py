"""Find which prompts of a model can share a batch: with and without an image, and with images of two sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from cmrm.models.prompt_states import choose_tolerance, compare_states, read_states
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image

# Large enough for every processor and for several positions under M-RoPE, small enough to take no time.
IMAGE_SIZE = 64
# How many times as wide as high the other of two images is.
WIDE = 3
QUESTIONS = ("What is it?", "Name every colour that can be seen here, one after the other.")


def draw_two_sizes() -> list[Prompt]:
    """Draw prompts with images that processors which make tiles cut into different numbers of them."""
    wide = noise_image(size=WIDE * IMAGE_SIZE, seed=1).crop((0, 0, WIDE * IMAGE_SIZE, IMAGE_SIZE))
    images = (noise_image(size=IMAGE_SIZE, seed=0), wide)
    return [Prompt(text=text, image=image) for text, image in zip(QUESTIONS, images, strict=True)]


def takes_tiles_together(vlm: VisionLanguageModel) -> bool:
    """Whether images of two sizes can be rendered in one batch; if not, joined rows must have the states of each."""
    prompts = draw_two_sizes()
    joined = replace(vlm, family=replace(vlm.family, tiles_together=False))
    try:
        alone = [read_states(vlm, [prompt]) for prompt in prompts]
    except Exception:  # noqa: BLE001 # an image that is refused by itself costs no other row
        return True
    try:
        render(vlm, prompts)
    except Exception:  # noqa: BLE001 # whatever a processor raises
        try:
            together = read_states(joined, prompts)
            singly = [read_states(joined, [prompt]) for prompt in prompts]
        except Exception:  # noqa: BLE001 # what it makes cannot be joined: the checks leave one prompt at a time
            return True
        return not all(_equal(together, number, one) for number, one in enumerate(alone)) or not all(
            _equal(one, 0, other) for one, other in zip(singly, alone, strict=True)
        )
    return True


def takes_mixed_batches(vlm: VisionLanguageModel, image: Any) -> bool:
    """Whether prompts with and without an image read in one batch have the states that each has alone."""
    prompts = [Prompt(text=QUESTIONS[0], image=image), Prompt(text=QUESTIONS[1])]
    try:
        together = read_states(vlm, prompts)
        alone = [read_states(vlm, [prompt]) for prompt in prompts]
    except Exception:  # noqa: BLE001 # whatever is refused, batches of one kind are tried by the checks
        return False
    return all(
        row in one
        and bool((compare_states(states[[number]], one[row]) <= choose_tolerance(states.dtype)).all())
        for row, states in together.items()
        for number, one in enumerate(alone)
    )


def _equal(states: Mapping[int, Tensor], number: int, alone: Mapping[int, Tensor]) -> bool:
    """Whether a row of a batch has at every block the states of a prompt that was read alone."""
    return states.keys() == alone.keys() and all(
        float(compare_states(made[number], alone[block][0])) <= choose_tolerance(made.dtype)
        for block, made in states.items()
    )
