"""Pixel values of an image by channel, as the family's processor hands them to the vision tower."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cmrm.errors import UserError
from cmrm.models.vlm import VisionLanguageModel, render_on_host
from cmrm.prompts.conditions import Prompt

# Any question: pixel values do not depend on it.
QUESTION = "?"
CHANNELS = 3
# The values of one colour differ by rounding alone: less than half a grey level, or so much without a scale.
SAME_LEVEL, SAME_VALUE = 0.5, 0.01
# What processors call the values; Video-LLaVA has others for a video.
NAMES = ("pixel_values", "pixel_values_images")
# What processors call the mask of the pixels, or of the tiles, that the tower is to use.
MASKS = ("pixel_attention_mask", "pixel_mask", "aspect_ratio_mask")
# What they call the row and the column of each patch, which are below 0 where a batch is padded.
PLACES = "image_position_ids"
# One image for each colour channel, bright in that channel alone.
PRIMARIES = ((255, 0, 0), (0, 255, 0), (0, 0, 255))


class UnreadablePixelsError(UserError):
    """A processor returns no pixel values, or none whose colour channels can be told apart."""


@dataclass(frozen=True, kw_only=True)
class PixelValues:
    """The pixel values of one image: `values` is float32 [channels, values], without those that the tower masks out.

    `levels` is how many grey levels (of 0 to 255) one unit is worth in each channel, None if the processor does not
    say; `tokens` is the number of image tokens in the prompt.
    """

    values: Tensor
    levels: tuple[float, ...] | None
    tokens: int

    @property
    def contrast(self) -> tuple[float, ...] | None:
        """The standard deviation of each channel in grey levels; None if the processor does not say its scale."""
        if self.levels is None:
            return None
        deviations = self.values.std(dim=1, correction=0).tolist()
        return tuple(one * level for one, level in zip(deviations, self.levels, strict=True))

    @property
    def uniform(self) -> bool:
        """Whether each channel has one value."""
        spread = (self.values.amax(dim=1) - self.values.amin(dim=1)).tolist()
        if self.levels is None:
            return all(one <= SAME_VALUE for one in spread)
        return all(one * level <= SAME_LEVEL for one, level in zip(spread, self.levels, strict=True))


def read_pixel_values(vlm: VisionLanguageModel, image: Image.Image) -> PixelValues:
    """Read the pixel values of an image behind the family's processor.

    Raises `UnreadablePixelsError` for a processor that returns no `pixel_values`, or none whose colour channels can be
    told apart.
    """
    inputs = render_pixels(vlm, image)
    pixels = pick_pixels(inputs).float()
    channels = split_channels(vlm, pixels, size=image.size)
    return PixelValues(
        values=_drop_masked(channels, inputs),
        levels=find_levels(vlm.processor, channels=len(channels)),
        tokens=int((inputs["input_ids"] == vlm.image_token_id).sum()),
    )


def render_pixels(vlm: VisionLanguageModel, image: Image.Image) -> Mapping[str, Tensor]:
    """Render a prompt with an image on the host; raises `UnreadablePixelsError` if that gives no `pixel_values`."""
    inputs = render_on_host(vlm, [Prompt(text=QUESTION, image=image)])
    if not any(name in inputs for name in NAMES):
        raise UnreadablePixelsError(
            f"model.id: the processor of {vlm.family.model_type} returns no pixel_values but {', '.join(inputs)}, so "
            "nobody can tell what its vision tower sees of a meaningless image."
        )
    return inputs


def pick_pixels(inputs: Mapping[str, Tensor]) -> Tensor:
    """Pick the pixel values of images among a processor's outputs."""
    return next(inputs[name] for name in NAMES if name in inputs)


def are_flattened(pixels: Tensor) -> bool:
    """Whether pixel values are rows of flattened patches, rather than images with a dimension of colour channels."""
    return pixels.ndim <= 3 or CHANNELS not in (pixels.shape[-3], pixels.shape[-1])


def split_channels(vlm: VisionLanguageModel, pixels: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Put the channels first: [channels, …] from […, channels, height, width] or from rows of flattened patches.

    `size` is the width and height of the image whose pixels they are. Raises `UnreadablePixelsError` as
    `read_pixel_values` does.
    """
    if not are_flattened(pixels):
        return pixels.movedim(-3 if pixels.shape[-3] == CHANNELS else -1, 0)
    # A patch may hold its channels one after the other (Qwen-VL) or pixel by pixel: a red image shows which are red.
    means = [
        pick_pixels(render_pixels(vlm, Image.new("RGB", size, color))).float().flatten(0, -2).mean(dim=0)
        for color in PRIMARIES
    ]
    channel = torch.stack(means).argmax(dim=0)
    if channel.bincount(minlength=CHANNELS).tolist() != [pixels.shape[-1] // CHANNELS] * CHANNELS:
        raise UnreadablePixelsError(
            f"model.id: the pixel_values of {vlm.family.model_type}, {list(pixels.shape)}, cannot be told apart by "
            "colour channel, so nobody can tell what its vision tower sees of a meaningless image."
        )
    return torch.stack([pixels[..., channel == number] for number in range(CHANNELS)])


def _drop_masked(channels: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """Drop what the tower masks out (padding of tiles and of batches): [channels, values] from [channels, …]."""
    places = inputs.get(PLACES)
    padded = None if places is None else (places >= 0).all(dim=-1)
    for mask in (*(inputs.get(name) for name in MASKS), padded):
        if mask is not None and channels.shape[1 : 1 + mask.ndim] == mask.shape:
            rest = channels.ndim - 1 - mask.ndim
            return channels[:, mask.bool()].flatten(1) if rest >= 0 else channels.flatten(1)
    return channels.flatten(1)


def find_levels(processor: Any, *, channels: int) -> tuple[float, ...] | None:
    """Find what one unit of a pixel value is worth in grey levels, from the image processor's own settings."""
    found, factor = getattr(processor, "image_processor", None), find_factor(processor)
    deviations = getattr(found, "image_std", None) if getattr(found, "do_normalize", True) else 1.0
    if factor is None or deviations is None:
        return None
    listed = [deviations] * channels if isinstance(deviations, int | float) else list(deviations)
    return tuple(one / factor for one in listed) if len(listed) == channels else None


def find_factor(processor: Any) -> float | None:
    """Find what the image processor multiplies a grey level by before it normalizes; None if it does not say."""
    found = getattr(processor, "image_processor", None)
    factor: float | None = (
        getattr(found, "rescale_factor", None) if getattr(found, "do_rescale", True) else 1.0
    )
    return factor
