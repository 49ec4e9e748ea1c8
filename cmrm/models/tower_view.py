"""A small picture of what the vision tower gets of an image: its pixel values, turned back into grey levels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cmrm.models.pixel_values import (
    CHANNELS,
    MASKS,
    are_flattened,
    find_factor,
    find_levels,
    pick_pixels,
    render_pixels,
    split_channels,
)
from cmrm.models.vlm import VisionLanguageModel

# Pixels of a view, a few kilobytes where it is stored; they are sampled, since noise would average out.
MOST_PIXELS = 1024
# Tiles shown of an image that the processor cuts up.
MOST_TILES = 4
WHITE = 255


@dataclass(frozen=True, kw_only=True)
class TowerView:
    """Pixels sampled of what the tower gets: `picture` has the first `shown` of all `tiles` side by side."""

    picture: Image.Image
    shown: int
    tiles: int


def view_pixels(vlm: VisionLanguageModel, image: Image.Image) -> TowerView | None:
    """Draw what the family's processor hands to the vision tower; None if it does not say its mean and scale.

    Raises `UnreadablePixelsError` as `read_pixel_values` does.
    """
    inputs = render_pixels(vlm, image)
    pixels = pick_pixels(inputs).float()
    levels = find_levels(vlm.processor, channels=CHANNELS)
    means = _find_means(vlm.processor)
    factor = find_factor(vlm.processor)
    if levels is None or means is None or not factor:
        return None
    channels = split_channels(vlm, pixels, size=image.size)
    if are_flattened(pixels):
        tiles = _put_in_place(vlm, channels, size=image.size)[None]
    else:
        tiles = _list_tiles(channels, inputs)
    grey = tiles * np.asarray(levels, np.float32) + np.asarray(means, np.float32) / factor
    shown = grey[:MOST_TILES]
    side = int((MOST_PIXELS / len(shown)) ** 0.5)
    row = np.concatenate([_sample(tile, side) for tile in shown], axis=1)
    picture = Image.fromarray(row.round().clip(0, WHITE).astype(np.uint8))
    return TowerView(picture=picture, shown=len(shown), tiles=len(grey))


def _list_tiles(channels: Tensor, inputs: Any) -> NDArray[np.float32]:
    """List the tiles that the tower is to use, float32 [tiles, height, width, channels]."""
    shape = channels.shape
    tiles = channels.movedim(0, -1).reshape(-1, *shape[-2:], len(channels))
    for name in MASKS:
        mask = inputs.get(name)
        if mask is not None and shape[1 : 1 + mask.ndim] == mask.shape:
            used = mask.bool().expand(shape[1:]) if mask.ndim == len(shape) - 1 else _widen(mask, shape[1:])
            return np.asarray(tiles[used.reshape(len(tiles), -1).any(dim=1)])
    return np.asarray(tiles)


def _widen(mask: Tensor, shape: Any) -> Tensor:
    return mask.bool().reshape(*mask.shape, *[1] * (len(shape) - mask.ndim)).expand(shape)


def _put_in_place(
    vlm: VisionLanguageModel, channels: Tensor, *, size: tuple[int, int]
) -> NDArray[np.float32]:
    """Put flattened patches back where they lie in the image, sampled: float32 [height, width, channels].

    The processor shows where: of two images that grow brighter to the right, and downwards, each value says its place.
    """
    side = int(MOST_PIXELS**0.5)
    rows, columns = (
        np.asarray(_locate(vlm, size=size, axis=axis)).clip(0, 1 - 1e-6) * side for axis in (0, 1)
    )
    cells = rows.astype(np.int64) * side + columns.astype(np.int64)
    found, first = np.unique(cells, return_index=True)
    # A small image has fewer values than the view has cells: each empty one takes its neighbour's.
    nearest = found[np.searchsorted(found, np.arange(side * side), side="right").clip(1) - 1]
    index = first[np.searchsorted(found, nearest)]
    values = np.asarray(channels.reshape(len(channels), -1))
    return values[:, index].T.reshape(side, side, len(channels))


def _locate(vlm: VisionLanguageModel, *, size: tuple[int, int], axis: int) -> Tensor:
    """Find where each value of the first channel lies along an axis of the image, 0 (vertical) or 1: from 0 to 1."""
    width, height = size
    ramp = np.linspace(0, WHITE, height if axis == 0 else width).round().astype(np.uint8)
    drawn = np.broadcast_to(ramp[:, None] if axis == 0 else ramp[None], (height, width))
    image = Image.fromarray(np.repeat(drawn[..., None], CHANNELS, axis=2))
    pixels = pick_pixels(render_pixels(vlm, image)).float()
    values = split_channels(vlm, pixels, size=size)[0].flatten()
    low, high = values.min(), values.max()
    return (values - low) / (high - low).clamp(min=1e-6)


def _sample(tile: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Take pixels at even distances, at most `side` along the longer side: [height, width, channels]."""
    longer = max(tile.shape[:2])
    height, width = (max(1, min(length, length * side // longer)) for length in tile.shape[:2])
    rows = (np.arange(height) * tile.shape[0]) // height
    columns = (np.arange(width) * tile.shape[1]) // width
    return tile[rows][:, columns]


def _find_means(processor: Any) -> tuple[float, ...] | None:
    """Find the mean that the image processor subtracts in each channel, zero where it subtracts none."""
    found = getattr(processor, "image_processor", None)
    if not getattr(found, "do_normalize", True):
        return (0.0,) * CHANNELS
    means = getattr(found, "image_mean", None)
    if means is None:
        return None
    listed = [means] * CHANNELS if isinstance(means, int | float) else list(means)
    return tuple(listed) if len(listed) == CHANNELS else None
