"""Check of meaningless images where the vision tower sees them: a blank is one colour, noise has a contrast."""

from __future__ import annotations

from PIL import Image

from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.models.mean_color import find_mean_color
from cmrm.models.pixel_values import read_pixel_values
from cmrm.models.stimulus import examine_stimulus, explain_padding
from cmrm.prompts.meaningless_images import BLACK, WHITE, blank_image, noise_image


def check_stimulus(fixture: ModelFixture) -> str:
    """Behind the processor, a blank image (white, black, the processor's mean) has one value in each colour channel."""
    vlm, size = fixture.vlm, fixture.image_size
    colors = {"white": WHITE, "black": BLACK, "mean-coloured": find_mean_color(vlm.processor)}
    for name, color in colors.items():
        if color is not None and not read_pixel_values(vlm, blank_image(size=size, color=color)).uniform:
            raise CheckFailedError(f"a {name} image of {size} pixels {explain_padding(vlm, _draw_white)}")
    white = examine_stimulus(vlm, _draw_white(size))
    noise = read_pixel_values(vlm, noise_image(size=size, seed=fixture.seed)).contrast
    measured = "unknown" if noise is None else f"{sum(noise) / len(noise):.0f} grey levels"
    vectors = "" if white.distinct is None else f", {white.distinct} of them distinct"
    return f"blank of {size} px: one colour, {white.tokens} image tokens{vectors}; noise: contrast {measured}"


def _draw_white(size: int) -> Image.Image:
    return blank_image(size=size, color=WHITE)
