"""The meaningless counterpart of each medium of a sample: of the same size and length, without content."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.meaningless_images import MIDDLE_GREY, MeaninglessImage, draw_noise
from cmrm.prompts.media import Audio, LoadedMedium, Video

# The root mean square of noise in place of a sound, 20 dB below full scale: about as loud as speech is recorded.
NOISE_RMS = 0.1
NO_CONTRAST = (
    "images.noise_contrast: is fitted to images of images.size, and noise in place of several images, of video or of "
    "sound has the size of each of them"
)


def make_counterparts(shown: Sequence[LoadedMedium], recipe: MeaninglessImage) -> tuple[LoadedMedium, ...]:
    """Make the meaningless counterpart of each medium, in order, by a recipe, whose own size is left aside.

    Of an image, one of the same width and height; of a video, as many frames of the same size at the same rate, all
    alike if blank and each drawn anew if noise; of a sound, as many samples at the same rate: silence if blank, else
    white noise of the root mean square `NOISE_RMS`, uniform or Gaussian (8 bits, cut off at two deviations) as the
    recipe's pixels are. The noise of each medium has a stream of its own, from the recipe's seed and its number.
    Raises `UserError` for a colour that is not known, and for noise of a stated contrast, which is fitted at one size.
    """
    if recipe.contrast is not None:
        raise UserError(f"{NO_CONTRAST}; leave it out.")
    return tuple(_make_one(medium, recipe, number) for number, medium in enumerate(shown))


def _make_one(medium: LoadedMedium, recipe: MeaninglessImage, number: int) -> LoadedMedium:
    if isinstance(medium, Audio):
        return _make_sound(medium, recipe, number)
    if isinstance(medium, Video):
        frames = _draw_images(medium.size, recipe, number=number, count=len(medium.frames))
        return Video(frames=frames, fps=medium.fps)
    return _draw_images(medium.size, recipe, number=number, count=1)[0]


def _draw_images(
    size: tuple[int, int], recipe: MeaninglessImage, *, number: int, count: int
) -> tuple[Image.Image, ...]:
    if recipe.kind == "blank":
        return (Image.new("RGB", size, recipe.need_color()),) * count
    width, height = size
    values = draw_noise(
        (count, height, width, 3), seed=(recipe.seed, number), distribution=recipe.distribution
    )
    return tuple(Image.fromarray(one, mode="RGB") for one in values)


def _make_sound(medium: Audio, recipe: MeaninglessImage, number: int) -> Audio:
    count = len(medium.samples)
    if recipe.kind == "blank":
        return Audio(samples=np.zeros(count, dtype=np.float32), rate=medium.rate)
    values = draw_noise((count,), seed=(recipe.seed, number), distribution=recipe.distribution)
    centred = values - MIDDLE_GREY
    scaled = centred * (NOISE_RMS / np.sqrt(np.mean(centred**2)))
    return Audio(samples=scaled.astype(np.float32), rate=medium.rate)
