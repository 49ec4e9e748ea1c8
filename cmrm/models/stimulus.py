"""What the vision tower sees of a meaningless image: pixel values, contrast, image tokens, distinct vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.models.forward_arguments import run_without_head
from cmrm.models.pixel_values import QUESTION, read_pixel_values
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt

# Figures are kept to this many digits after the point: later ones differ between machines.
DIGITS = 4
# Image tokens at a smaller distance, relative to their norm, are one vector.
SAME_VECTOR = {torch.float32: 1e-3}
SAME_VECTOR_IN_HALF = 2e-2
# Their distances are a matrix of tokens by tokens.
MOST_TOKENS = 4096
# Sides to suggest where the given one is padded, in pixels; squares of the processor's own grid come first.
SIZES = (336, 384, 448, 512, 560, 672, 768, 896, 1008, 1344)


@dataclass(frozen=True, kw_only=True)
class Stimulus:
    """A meaningless image as the vision tower sees it; `width` and `height` are those before the processor.

    `low` and `high` are the lowest and the highest pixel value of each channel, `contrast` is each channel's standard
    deviation in grey levels of 0 to 255, None if the processor does not say its scale. `uniform`: one value a channel.
    `tokens` is the number of image tokens, `distinct` how many different vectors they are where they enter the decoder,
    None if that is not known.
    """

    width: int
    height: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    contrast: tuple[float, ...] | None
    uniform: bool
    tokens: int
    distinct: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return it in JSON types."""
        fields = asdict(self)
        return {name: list(one) if isinstance(one, tuple) else one for name, one in fields.items()}


def examine_stimulus(vlm: VisionLanguageModel, image: Image.Image) -> Stimulus:
    """Measure what the tower sees of an image, by one call of the processor and one pass of tower and projector.

    Raises `UnreadablePixelsError` as `read_pixel_values` does.
    """
    pixels = read_pixel_values(vlm, image)
    return Stimulus(
        width=image.width,
        height=image.height,
        low=_round(pixels.values.amin(dim=1).tolist()),
        high=_round(pixels.values.amax(dim=1).tolist()),
        contrast=None if pixels.contrast is None else _round(pixels.contrast),
        uniform=pixels.uniform,
        tokens=pixels.tokens,
        distinct=count_distinct(vlm, image),
    )


def find_uniform_size(vlm: VisionLanguageModel, draw: Callable[[int], Image.Image]) -> int | None:
    """Find a side, in pixels, at which the tower sees one value a channel; None if none of those tried is one.

    `draw` makes the image of one colour at a side.
    """
    sizes = dict.fromkeys(_list_sizes(vlm))
    return next((size for size in sizes if read_pixel_values(vlm, draw(size)).uniform), None)


def explain_padding(vlm: VisionLanguageModel, draw: Callable[[int], Image.Image]) -> str:
    """Say why a blank image is not one colour, and what to do; `draw` makes it at a side, in pixels."""
    found = find_uniform_size(vlm, draw)
    remedy = "at no size tried is it one" if found is None else f"set images.size: {found}"
    return f"is not one colour where the vision tower sees it, since the processor pads it; {remedy}"


@torch.inference_mode()
def count_distinct(vlm: VisionLanguageModel, image: Image.Image) -> int | None:
    """Count the different vectors that an image's tokens are where they enter the decoder, after tower and projector.

    None where cross-attention takes the image past the prompt's tokens, and for more than `MOST_TOKENS` of them.
    """
    if vlm.image_only_blocks:
        return None
    inputs = render(vlm, [Prompt(text=QUESTION, image=image)])
    here = inputs["input_ids"][0] == vlm.image_token_id
    if not 0 < int(here.sum()) <= MOST_TOKENS:
        return None
    embedded = _embed(vlm, inputs)
    if embedded is None or embedded.shape[:2] != inputs["input_ids"].shape:
        return None
    tolerance = SAME_VECTOR.get(vlm.model.dtype, SAME_VECTOR_IN_HALF)
    return _count_apart(embedded[0][here.to(embedded.device)].float(), tolerance)


class _ReachedError(Exception):
    """The forward pass has reached the decoder."""


def _embed(vlm: VisionLanguageModel, inputs: BatchFeature) -> Tensor | None:
    """Run a prompt as far as the decoder: the embeddings that enter it, [1, tokens, hidden]; None if it gets none."""
    found: list[Tensor] = []

    def stop(_module: nn.Module, _arguments: Any, given: dict[str, Any]) -> None:
        embedded = given.get("inputs_embeds")
        if embedded is not None:
            found.append(embedded)
            raise _ReachedError

    def stop_at_block(_module: nn.Module, arguments: Any, given: dict[str, Any]) -> None:
        found.append(arguments[0] if arguments else given["hidden_states"])
        raise _ReachedError

    handles = [
        vlm.decoder.register_forward_pre_hook(stop, with_kwargs=True),
        # A decoder that embeds tokens and images itself (Chameleon).
        vlm.blocks[0].register_forward_pre_hook(stop_at_block, with_kwargs=True),
    ]
    try:
        run_without_head(vlm, inputs)
    except _ReachedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _count_apart(vectors: Tensor, tolerance: float) -> int:
    """Count vectors [n, width] that lie near none before them."""
    closest = tolerance * vectors.norm(dim=1).mean()
    # Without their mean: the distance of two long, nearly equal vectors is lost in rounding.
    apart = torch.cdist(vectors - vectors.mean(dim=0), vectors - vectors.mean(dim=0)) > closest
    return int((apart | torch.ones_like(apart).triu()).all(dim=1).sum())


def _list_sizes(vlm: VisionLanguageModel) -> Iterator[int]:
    grid = getattr(vlm.processor.image_processor, "image_grid_pinpoints", None) or ()
    yield from sorted(height for height, width in grid if height == width)
    yield from SIZES


def _round(numbers: list[float] | tuple[float, ...]) -> tuple[float, ...]:
    # Adding zero turns −0 into 0.
    return tuple(round(one, DIGITS) + 0.0 for one in numbers)
