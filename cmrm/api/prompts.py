"""Prompts from samples and texts, checked and put into batches that a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from cmrm.errors import UserError
from cmrm.models.vlm import VisionLanguageModel, find_special_token
from cmrm.prompts.conditions import (
    CONDITIONS,
    MEANINGLESS,
    Condition,
    Meaningless,
    Prompt,
    make_meaningless,
    show,
)
from cmrm.prompts.images import WHITE, open_image
from cmrm.prompts.sample import Sample

# Side of a meaningless image in pixels, and the seed of noise: what a spec's `images` are where it says nothing.
IMAGE_SIZE = 336
NOISE_SEED = 0


def make_prompt(
    sample: Sample,
    condition: Condition = "image",
    *,
    images: Path | None = None,
    image_size: int = IMAGE_SIZE,
    system: str | None = None,
) -> Prompt:
    """Make the prompt that shows a sample under a condition.

    `images` is the folder of the sample's own image, which `image` needs; `image_size` is the side of a meaningless
    image in pixels; `system` is a system line. The prompts of one sample differ by the image alone, and under `caption`
    by the caption above the question.
    Raises `UserError` for an unknown condition or an image that cannot be read; `ValueError` where the sample lacks
    what the condition needs.

    Source: the conditions of the paper's main table, and other meaningless images to compare with.

    >>> import cmrm
    >>> sample = cmrm.Sample(id="1", dataset="mine", question="what is a wug?", harmful=False)
    >>> prompt = cmrm.make_prompt(sample, "blank", image_size=32)
    >>> prompt.text, prompt.image.size
    ('what is a wug?', (32, 32))
    """
    if condition not in CONDITIONS:
        raise UserError(f"condition {condition!r} is unknown; use one of {', '.join(CONDITIONS)}.")
    if condition == "image" and images is None and sample.image:
        raise UserError(f"sample {sample.id!r} has the image {sample.image!r}; name its folder by `images`.")
    meaningless = make_meaningless(size=image_size, color=WHITE, seed=NOISE_SEED)
    opener = partial(open_image, Path() if images is None else images)
    return show(sample, condition, open_image=opener, meaningless=meaningless, system=system)


def render_meaningless(image: Meaningless | Image.Image) -> tuple[str, Image.Image]:
    """The name and the pixels of a meaningless image, given by its word or as an image of one's own."""
    if isinstance(image, Image.Image):
        return "own", image
    if image not in MEANINGLESS:
        raise UserError(f"image {image!r} is unknown; use one of {', '.join(MEANINGLESS)}, or a PIL image.")
    return image, make_meaningless(size=IMAGE_SIZE, color=WHITE, seed=NOISE_SEED)[image].render()


def read_prompts(vlm: VisionLanguageModel, prompts: Sequence[Prompt | str]) -> list[Prompt]:
    """The prompts with each plain text made into one; `UserError` for what would be read as another prompt."""
    if isinstance(prompts, str):
        raise UserError("prompts: a single text was given; give a list of prompts or texts.")
    read = [Prompt(text=one) if isinstance(one, str) else one for one in prompts]
    if not read:
        raise UserError("prompts: none was given; give at least one.")
    for number, prompt in enumerate(read):
        if token := find_special_token(vlm, prompt):
            raise UserError(
                f"prompts[{number}] holds the special token {token!r} as plain text; take it out."
            )
    return read


def split_batches(vlm: VisionLanguageModel, prompts: Sequence[Prompt], size: int) -> list[list[int]]:
    """The places of prompts in batches of at most `size`; with and without image apart where the model needs it."""
    if size < 1:
        raise UserError(f"batch_size is {size}; give 1 or more.")
    places = range(len(prompts))
    kinds = [[*places]]
    if not vlm.family.mixed_batches:
        kinds = [
            [place for place in places if (prompts[place].image is None) == text_only]
            for text_only in (True, False)
        ]
    return [kind[start : start + size] for kind in kinds for start in range(0, len(kind), size)]
