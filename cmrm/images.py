"""Images: a sample's own, opened with care, and the meaningless ones (blank, noise) made from a few numbers."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from cmrm.errors import UserError

Distribution = Literal["uniform", "gaussian"]

# The common photograph formats. A closed list keeps out those whose readers start other programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "PPM", "WEBP", "AVIF")

# Pillow only warns from here to twice as many pixels; a batch job has nobody to read the warning.
MAX_PIXELS = 89_478_485

WHITE = (255, 255, 255)
BLACK = (0, 0, 0)
# CLIP's mean colour, rounded: after its normalisation such an image is close to zero everywhere.
CLIP_MEAN = (123, 117, 104)

# Of the Gaussian noise: half a grey level's distance to either end is two standard deviations.
GAUSSIAN_MEAN, GAUSSIAN_DEVIATION = 127.5, 63.75


def open_image(root: Path, name: str) -> Image.Image:
    """Open the image `name` under the folder `root` as 8-bit RGB, upright, transparency laid over white.

    Of an animation, the first frame. Raises `UserError` when the file is missing, lies outside `root` (links
    followed), has more than `MAX_PIXELS` pixels, or cannot be read to its last byte.
    """
    path = locate_image(root, name)
    try:
        with Image.open(path, formats=FORMATS) as image:
            _refuse_a_bomb(image, name)
            return _to_rgb(ImageOps.exif_transpose(image))
    except UserError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UserError(f"image {name!r} is too large ({error}); scale it down.") from None
    except Exception as error:  # noqa: BLE001 - on damaged bytes Pillow's decoders raise nearly any exception
        raise UserError(
            f"image {name!r} in {root} cannot be read ({_first_line(error)}); replace the file or remove the row."
        ) from None


def count_pixels(root: Path, name: str) -> int:
    """How many pixels the image `name` has by its header; 0 where that cannot be read."""
    try:
        with Image.open(locate_image(root, name), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:  # noqa: BLE001 - whoever opens it says what is wrong with it
        return 0


def locate_image(root: Path, name: str) -> Path:
    """Find the file that `name` means under `root`, links followed.

    Raises `UserError` when it is not there or not inside.
    """
    try:
        folder = root.absolute()
        given = folder / name
        path = Path(os.path.realpath(given))
        # Where no link was followed there is none in the folder's own name either, which need not be looked at again
        # for each of as many images as a data set has rows.
        if not path.is_relative_to(folder if path == given else folder.resolve()):
            raise UserError(
                f"image {name!r} lies outside {root}; give names inside the image folder, without '..', "
                "and copy files instead of linking out of it."
            )
        if not path.is_file():
            raise UserError(f"image {name!r} is not in {root}; add the file or correct the name.")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"image name {name!r} is no usable file name ({error}); correct it.") from None
    return path


def blank_image(*, size: int, color: tuple[int, int, int]) -> Image.Image:
    """Make a square RGB image of one colour, `size` pixels wide."""
    return Image.new("RGB", (size, size), color)


def noise_image(*, size: int, seed: int, distribution: Distribution = "uniform") -> Image.Image:
    """Make a square RGB image, `size` pixels wide, of independent channel values.

    `uniform` on 0–255, or `gaussian` with mean 127.5 and deviation 63.75, cut at both ends. The numbers are made from
    PCG64's raw output, which numpy promises never to change, so one seed is one image for good.
    """
    count = size * size * 3
    draw = _draw_uniform if distribution == "uniform" else _draw_gaussian
    return Image.fromarray(draw(count, seed).reshape(size, size, 3), mode="RGB")


def digest_pixels(image: Image.Image) -> str:
    """A digest that two images have in common when a model sees the same in both."""
    # A palette and a turn are not among the bytes of the pixels.
    shown = image.convert("RGBA") if image.mode in ("P", "PA") else image
    turn = image.getexif().get(ExifTags.Base.Orientation)
    digest = hashlib.sha256(f"{image.mode} {image.size} {turn}\n".encode())
    digest.update(shown.tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class MeaninglessImage:
    """The recipe of an image that says nothing: `size` pixels square; its `color`, or its noise's `distribution`."""

    kind: Literal["blank", "noise"]
    size: int
    color: tuple[int, int, int] = WHITE
    seed: int = 0
    distribution: Distribution = "uniform"

    def __post_init__(self) -> None:
        if self.kind not in ("blank", "noise"):
            raise UserError(f"image kind {self.kind!r} is unknown; use 'blank' or 'noise'.")
        if not 1 <= self.size <= 8192:
            raise UserError(f"image size is {self.size} pixels; give 1 to 8192.")
        if len(self.color) != 3 or not all(0 <= value <= 255 for value in self.color):
            raise UserError(f"image color is {self.color}; give three numbers from 0 to 255.")
        if self.seed < 0:
            raise UserError(f"image seed is {self.seed}; give 0 or more.")
        if self.distribution not in get_args(Distribution):
            known = ", ".join(get_args(Distribution))
            raise UserError(f"image distribution {self.distribution!r} is unknown; use one of {known}.")

    def render(self) -> Image.Image:
        """The image; of one recipe the same object each time, so it is not to be drawn on."""
        return _render_once(self)

    def as_dict(self) -> Mapping[str, Any]:
        """Return what determines the pixels and nothing else, as JSON types, to be part of a key."""
        if self.kind == "blank":
            return {"kind": "blank", "size": self.size, "color": list(self.color)}
        return {
            "kind": "noise",
            "size": self.size,
            "seed": self.seed,
            "distribution": self.distribution,
        }


# Each sample of a condition is shown the same one.
@lru_cache(maxsize=8)
def _render_once(recipe: MeaninglessImage) -> Image.Image:
    if recipe.kind == "blank":
        return blank_image(size=recipe.size, color=recipe.color)
    return noise_image(size=recipe.size, seed=recipe.seed, distribution=recipe.distribution)


def _draw_uniform(count: int, seed: int) -> NDArray[np.uint8]:
    words = np.random.PCG64(seed).random_raw(-(-count // 8))
    return np.asarray(words, dtype="<u8").view(np.uint8)[:count]


def _draw_gaussian(count: int, seed: int) -> NDArray[np.uint8]:
    words = np.random.PCG64(seed).random_raw(-(-count // 2))
    fractions = np.asarray(words, dtype="<u8").view("<u4")[:count]
    # A value's place among these bounds is its rounded quantile; numpy's own normal numbers may change with a release.
    scale = GAUSSIAN_DEVIATION * math.sqrt(2)
    bounds = [
        round((1 + math.erf((value + 0.5 - GAUSSIAN_MEAN) / scale)) / 2 * 2**32) for value in range(255)
    ]
    return np.searchsorted(np.asarray(bounds), fractions, side="right").astype(np.uint8)


def _refuse_a_bomb(image: Image.Image, name: str) -> None:
    # Only the header has been read so far: this is the last moment before memory is taken.
    if image.width * image.height > MAX_PIXELS:
        raise UserError(
            f"image {name!r} has {image.width} × {image.height} pixels, more than {MAX_PIXELS:,}; scale it down."
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _to_eight_bits(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, (*WHITE, 255)), layer).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Scale 16-bit, 32-bit and float grey values to 8 bits; Pillow's own conversion would clip them at 255."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("pixel values that are not finite")
    highest = values.max(initial=0.0)
    if image.mode == "F":
        full = 1.0 if highest <= 1.0 else 255.0
    else:
        # A 16-bit file spans 0–65535 whatever its brightest pixel; a wider one has no such convention.
        full = 65_535.0 if image.mode.startswith("I;16") or highest <= 65_535.0 else highest
    return Image.fromarray(np.clip(np.rint(values * (255.0 / full)), 0, 255).astype(np.uint8), mode="L")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__
