"""The meaningless images of the conditions blank and noise: recipes, and how they are drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cmrm.errors import UserError

Distribution = Literal["uniform", "gaussian"]

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
# CLIP's mean colour, rounded: its normalisation maps such an image to about zero everywhere. Other processors have
# means of their own (`cmrm.models.mean_color`).
CLIP_MEAN = (123, 117, 104)

# Gaussian noise: either end of 0–255 is two standard deviations from the mean.
GAUSSIAN_MEAN, GAUSSIAN_DEVIATION = 127.5, 63.75
MIDDLE_GREY = 127.5
# No values of 0 to 255 have a higher standard deviation.
MOST_CONTRAST = 127.5


def blank_image(*, size: int, color: tuple[int, int, int]) -> Image.Image:
    """Generate a square RGB image of one colour, `size` pixels wide."""
    return Image.new("RGB", (size, size), color)


def noise_image(
    *, size: int, seed: int, distribution: Distribution = "uniform", gain: float = 1.0
) -> Image.Image:
    """Generate a square RGB image, `size` pixels wide, of independent channel values.

    `uniform` on 0–255, or `gaussian` with mean 127.5 and deviation 63.75, clipped at both ends. The values come from
    PCG64's raw output, which numpy guarantees to be stable, so a seed always gives the same image. `gain` scales their
    distance from 127.5, clipped at both ends.
    """
    values = draw_noise((size, size, 3), seed=seed, distribution=distribution, gain=gain)
    return Image.fromarray(values, mode="RGB")


def draw_noise(
    shape: tuple[int, ...],
    *,
    seed: int | tuple[int, ...],
    distribution: Distribution = "uniform",
    gain: float = 1.0,
) -> NDArray[np.uint8]:
    """Draw the values of `noise_image` in any shape; numbers of `seed` behind the first tell streams apart."""
    draw = _draw_uniform if distribution == "uniform" else _draw_gaussian
    values = draw(math.prod(shape), seed)
    if gain != 1:
        scaled = np.rint(MIDDLE_GREY + gain * (values - MIDDLE_GREY))
        values = np.clip(scaled, 0, 255).astype(np.uint8)
    return values.reshape(shape)


@dataclass(frozen=True, kw_only=True)
class MeaninglessImage:
    """The recipe of an image without content: `size` pixels square, with a `color`, or noise of a `distribution`.

    A `color` of None is the mean of a processor that names none: it cannot be drawn. `contrast` is the standard
    deviation that noise has behind a model's processor, in grey levels; such noise is drawn with the `gain` that
    `cmrm.models.noise_contrast.fit_contrast` finds for the model. None leaves noise as it is drawn.
    """

    kind: Literal["blank", "noise"]
    size: int
    color: tuple[int, int, int] | None = WHITE
    seed: int = 0
    distribution: Distribution = "uniform"
    contrast: float | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("blank", "noise"):
            raise UserError(f"image kind {self.kind!r} is unknown; use 'blank' or 'noise'.")
        if not 1 <= self.size <= 8192:
            raise UserError(f"image size is {self.size} pixels; give 1 to 8192.")
        if self.color is not None and (
            len(self.color) != 3 or not all(0 <= value <= 255 for value in self.color)
        ):
            raise UserError(f"image color is {self.color}; give three numbers from 0 to 255.")
        if self.seed < 0:
            raise UserError(f"image seed is {self.seed}; give 0 or more.")
        if self.distribution not in get_args(Distribution):
            known = ", ".join(get_args(Distribution))
            raise UserError(f"image distribution {self.distribution!r} is unknown; use one of {known}.")
        if self.contrast is not None and not 0 < self.contrast <= MOST_CONTRAST:
            raise UserError(
                f"image contrast is {self.contrast}; give more than 0 and at most {MOST_CONTRAST}."
            )

    def render(self) -> Image.Image:
        """Generate the image; equal recipes share one cached object, so it must not be modified.

        Raises `UserError` for a mean colour that is not known, `ValueError` for a contrast without its gain.
        """
        self.need_color()
        if self.contrast is not None and self.gain is None:
            raise ValueError("noise of a stated contrast is fitted to a model's processor before it is drawn")
        return _render_once(self)

    def as_dict(self) -> Mapping[str, Any]:
        """Return what determines the pixels, in JSON types, as part of a cache key.

        The gain of noise follows from its contrast and the model's processor, which the key holds as well.
        Raises `UserError` for a mean colour that is not known.
        """
        if self.kind == "blank":
            return {"kind": "blank", "size": self.size, "color": list(self.need_color())}
        return {
            "kind": "noise",
            "size": self.size,
            "seed": self.seed,
            "distribution": self.distribution,
            **({} if self.contrast is None else {"contrast": self.contrast}),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], *, gain: float | None = None) -> MeaninglessImage:
        """Restore a recipe from `as_dict`, and the gain of its noise."""
        color = content.get("color")
        return cls(**{**content, **({} if color is None else {"color": tuple(color)}), "gain": gain})

    def need_color(self) -> tuple[int, int, int]:
        """Return the colour of a blank image; `UserError` for a mean colour that is not known."""
        if self.color is None:
            raise UserError(
                "blank-mean: the model's preprocessor_config.json names no image_mean, so its mean colour is not "
                "known; use blank with images.color, or blank-black."
            )
        return self.color


# All samples of a condition share one image.
@lru_cache(maxsize=8)
def _render_once(recipe: MeaninglessImage) -> Image.Image:
    if recipe.kind == "blank":
        assert recipe.color is not None  # `render` has checked it
        return blank_image(size=recipe.size, color=recipe.color)
    return noise_image(
        size=recipe.size,
        seed=recipe.seed,
        distribution=recipe.distribution,
        gain=1.0 if recipe.gain is None else recipe.gain,
    )


def _draw_uniform(count: int, seed: int | tuple[int, ...]) -> NDArray[np.uint8]:
    words = np.random.PCG64(seed).random_raw(-(-count // 8))
    return np.asarray(words, dtype="<u8").view(np.uint8)[:count]


def _draw_gaussian(count: int, seed: int | tuple[int, ...]) -> NDArray[np.uint8]:
    words = np.random.PCG64(seed).random_raw(-(-count // 2))
    fractions = np.asarray(words, dtype="<u8").view("<u4")[:count]
    # Inverse CDF by binary search in these bounds; numpy's own normal numbers may change with a release.
    scale = GAUSSIAN_DEVIATION * math.sqrt(2)
    bounds = [
        round((1 + math.erf((value + 0.5 - GAUSSIAN_MEAN) / scale)) / 2 * 2**32) for value in range(255)
    ]
    return np.searchsorted(np.asarray(bounds), fractions, side="right").astype(np.uint8)
