"""Prompts from samples and texts, checked and put into batches that a model takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from PIL import Image

from cmrm.errors import UserError
from cmrm.models.families import IMAGE_SIZE
from cmrm.models.mean_color import find_mean_color
from cmrm.models.media import split_by_kind
from cmrm.models.vlm import VisionLanguageModel, find_special_token
from cmrm.prompts.conditions import (
    CONDITIONS,
    CONTROLS,
    MEANINGLESS,
    TEXT_ONLY,
    Condition,
    Meaningless,
    Prompt,
    make_meaningless,
    show,
)
from cmrm.prompts.counterparts import make_counterparts
from cmrm.prompts.images import open_image
from cmrm.prompts.meaningless_images import CLIP_MEAN, WHITE, MeaninglessImage
from cmrm.prompts.open_medium import open_medium
from cmrm.prompts.sample import Sample

# The seed of noise: what a spec's `images` are where it says nothing.
NOISE_SEED = 0


def make_prompt(
    sample: Sample,
    condition: Condition = "image",
    *,
    images: Path | None = None,
    image_size: int | None = None,
    system: str | None = None,
    vlm: VisionLanguageModel | None = None,
) -> Prompt:
    """Make the prompt that shows a sample under a condition.

    `images` is the folder of the sample's own image, which `image` needs; `image_size` is the side of a meaningless
    image in pixels; `system` is a system line. The prompts of one sample differ by the image alone, and under `caption`
    by the caption above the question. Meaningless images depend on the model `vlm` that is to see them: its family
    chooses the size and its processor the colour of `blank-mean`. Without a model they are 336 pixels and CLIP's mean.
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
    if condition not in TEXT_ONLY and images is None and sample.media:
        raise UserError(f"sample {sample.id!r} has {len(sample.media)} media; name their folder by `images`.")
    meaningless = _make_recipes(vlm, image_size)
    folder = Path() if images is None else images
    return show(
        sample,
        condition,
        open_image=partial(open_image, folder),
        open_media=partial(open_medium, folder),
        meaningless=meaningless,
        system=system,
    )


def show_meaningless(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], image: Meaningless | Image.Image
) -> tuple[str, Image.Image, list[Prompt]]:
    """The name and the pixels of a meaningless image, given by its word or as one's own, and prompts with it.

    A prompt with media shows the counterpart of each. Under a control the prompts keep the place of what they show.
    """
    if isinstance(image, Image.Image):
        if any(prompt.media for prompt in prompts):
            raise UserError(f"image: prompts with media take a word: one of {', '.join(MEANINGLESS)}.")
        return "own", image, [replace(prompt, image=image, control=None) for prompt in prompts]
    if image not in MEANINGLESS:
        raise UserError(f"image {image!r} is unknown; use one of {', '.join(MEANINGLESS)}, or a PIL image.")
    control = next((one for one in CONTROLS if one == image), None)
    recipe = _make_recipes(vlm, None)["blank" if control else image]
    picture = recipe.render()
    shown = [
        replace(
            prompt,
            image=None if prompt.media else picture,
            media=make_counterparts(prompt.media, recipe),
            control=control,
        )
        for prompt in prompts
    ]
    return image, picture, shown


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
    """The places of prompts in batches of at most `size`; controls apart, and with and without image where needed."""
    if size < 1:
        raise UserError(f"batch_size is {size}; give 1 or more.")
    size = size if vlm.family.batches else 1
    # Prompts without an image first.
    ordered = sorted(split_by_kind(vlm.family, prompts), key=lambda kind: bool(prompts[kind[0]].shown))
    return [kind[start : start + size] for kind in ordered for start in range(0, len(kind), size)]


def _make_recipes(vlm: VisionLanguageModel | None, size: int | None) -> Mapping[Condition, MeaninglessImage]:
    """The recipes of meaningless images as a spec that says nothing of them has them for this model."""
    usual = IMAGE_SIZE if vlm is None else vlm.family.image_size
    return make_meaningless(
        size=usual if size is None else size,
        color=WHITE,
        seed=NOISE_SEED,
        mean=CLIP_MEAN if vlm is None else find_mean_color(vlm.processor),
    )
