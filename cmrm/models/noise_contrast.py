"""Noise of a stated contrast behind the family's processor, whose resizing takes contrast away."""

from __future__ import annotations

import math
from dataclasses import replace

from cmrm.errors import UserError
from cmrm.models.pixel_values import read_pixel_values
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.meaningless_images import MeaninglessImage

# The contrast found is this near to the stated one, in grey levels.
NEAR = 0.05
# Beyond it every value lies at one of the ends of 0 to 255.
MOST_GAIN = 255.0
LEAST_GAIN = 0.01
FIRST_STEPS, STEPS = 6, 24
# So that a gain that is written down draws the same image again.
DIGITS = 6


def fit_contrast(vlm: VisionLanguageModel, recipe: MeaninglessImage) -> MeaninglessImage:
    """Find the gain at which noise has the recipe's contrast behind the processor, and return the recipe with it.

    A recipe without a contrast, and one that has a gain, is returned as it is. Contrast is the standard deviation over
    pixels in grey levels, the mean of the channels.
    Raises `UserError` if no gain gives the contrast, naming the highest and the lowest that can be had.
    """
    wanted = recipe.contrast
    if wanted is None or recipe.gain is not None:
        return recipe
    # As long as no value is cut off at 0 and 255, contrast is proportional to the gain.
    gain = 1.0
    for _ in range(FIRST_STEPS):
        found = _measure(vlm, recipe, gain)
        if abs(found - wanted) <= NEAR:
            return replace(recipe, gain=gain)
        if found == 0:
            break  # an image of one pixel is of one colour at any gain
        # At a lower gain than the least the image would be of one colour, which is no noise.
        gain = round(min(max(gain * wanted / found, LEAST_GAIN), MOST_GAIN), DIGITS)
    return replace(recipe, gain=_bisect(vlm, recipe, wanted))


def _bisect(vlm: VisionLanguageModel, recipe: MeaninglessImage, wanted: float) -> float:
    low, high = LEAST_GAIN, MOST_GAIN
    least, most = (_measure(vlm, recipe, gain) for gain in (low, high))
    for _ in range(STEPS if least < wanted < most else 0):
        # Halves the exponent: beyond a gain of 2 contrast grows ever more slowly.
        gain = round(math.sqrt(low * high), DIGITS)
        found = _measure(vlm, recipe, gain)
        if abs(found - wanted) <= NEAR:
            return gain
        low, high = (gain, high) if found < wanted else (low, gain)
    raise UserError(
        f"images.noise_contrast: {wanted:g} grey levels cannot be had behind the processor of "
        f"{vlm.family.model_type} at images.size {recipe.size}, which gives {least:.1f} to {most:.1f}; give a contrast "
        "between them or another images.size."
    )


def _measure(vlm: VisionLanguageModel, recipe: MeaninglessImage, gain: float) -> float:
    contrast = read_pixel_values(vlm, replace(recipe, gain=gain).render()).contrast
    if contrast is None:
        raise UserError(
            f"images.noise_contrast: the image processor of {vlm.family.model_type} names neither image_std nor "
            "rescale_factor, so nobody can tell its contrast; leave noise_contrast out."
        )
    return sum(contrast) / len(contrast)
