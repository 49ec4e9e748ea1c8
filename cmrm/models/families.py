"""Model families: one row of architecture facts for each model type, never guessed from module names."""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, Literal

# Shown in the error of a type without a row, with the page that explains it.
EXAMPLE_ROW = "{blocks: layers, image_token: image_token_id}"
PAGE = "docs/models.md under “A type that is not in the table”"

# Raised when a change of what is derived from a model without a row changes states or answers: it is part of keys.
RULES = 2

# LLaVA-1.5's own size, at which all types but LLaVA-NeXT pad nothing.
IMAGE_SIZE = 336

Positions = Literal["counted", "multimodal"]
Shares = Literal["all", "text", "nothing"]
# What a prompt shows besides one image: `mixed` is media of several kinds.
MediaForm = Literal["images", "video", "audio", "mixed"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type: the paths to its parts, and what its processor and its decoder need.

    `blocks`: the attribute path from `model.get_decoder()` to the list of decoder blocks.
    `image_token`: the path in `config.json` to the id of the image placeholder token, or that id.
    `positions`: `counted` over the prompt's tokens from `first_position` on, or `multimodal`: several a token, which
    the model computes from the image's grid (M-RoPE).
    `image_only_blocks`: the path in `config.json` to the numbers of the blocks that are skipped without an image.
    `batches`: whether prompts can share a batch at all; if not, they are read and answered one at a time.
    `mixed_batches`: whether prompts with and without an image can share a batch.
    `gaps`: whether an image moves the text behind it by its positions, so that a gap can take its place (controls).
    `system`: the default system line, for templates that otherwise print image prompts and text prompts differently.
    `shares`: which prompts can share a prefix in the KV cache: all, those without an image (`text`), or none. It needs
    causal attention, an image that lies in the prompt, a decoder that takes a cache and positions, and a processor that
    leaves what follows an image as it is; the doctor checks it.
    `attention`: the implementation that `model.attn_implementation: auto` stands for.
    `template`: a chat template for processors that are published without one; a processor's own takes precedence.
    `text_only_form`: for processors that refuse text alone, how they format a rendered prompt: a format string over
    `bos` and `prompt`. Such prompts are tokenized directly.
    `streams`: the path in `config.json` to the number of parallel residual streams, or that number, for blocks that
    give [streams, rows, tokens, hidden] or [rows, tokens, streams · hidden]; the state is all of them side by side.
    `logit_factor`, `logit_divisor`: the paths in `config.json` to what the head's logits are multiplied with or divided
    by.
    `logit_bound`: the path in `config.json` to the bound b of models that answer from b · tanh(logits / b), logits
    being scaled already; null there is none.
    `tiles_together`: whether the processor takes images that it cuts into different numbers of tiles in one batch.
    `image_size`: the side of meaningless images, in pixels, where a spec names none: one at which the processor pads
    nothing, so that a blank is one colour where the vision tower sees it (the doctor checks it).
    `media`: what a prompt can show besides one image: several `images`, `video`, `audio` (sound), and media of several
    kinds in one prompt (`mixed`). The doctor checks each.
    """

    model_type: str
    blocks: str
    image_token: str
    positions: Positions = "counted"
    first_position: int = 0
    image_only_blocks: str | None = None
    batches: bool = True
    mixed_batches: bool = True
    gaps: bool = True
    shares: Shares = "nothing"
    attention: Attention = "sdpa"
    system: str | None = None
    template: str | None = None
    text_only_form: str | None = None
    streams: str | None = None
    logit_factor: str | None = None
    logit_divisor: str | None = None
    logit_bound: str | None = None
    tiles_together: bool = True
    image_size: int = IMAGE_SIZE
    media: tuple[MediaForm, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Derivation:
    """What determines the row of a type that no table lists, beside the model's files.

    `rules` is the version of how rows are derived; `transformers` that of the package whose classes they describe.
    """

    rules: int
    transformers: str

    @classmethod
    def here(cls) -> Derivation:
        """The derivation that this process would make."""
        return cls(rules=RULES, transformers=version("transformers"))


@dataclass(frozen=True, kw_only=True)
class Admission:
    """How a derived row is used once it was examined: the way of reading prompts, and why none that is faster."""

    way: str
    reason: str = ""


def describe_way(family: Family) -> str:
    """Describe how prompts of a family are read."""
    if not family.batches:
        return "prompts are read one at a time"
    ways = {
        "all": "prompts share prefixes",
        "text": "prompts without an image share prefixes",
        "nothing": "prompts are read in plain batches",
    }
    return ways[family.shares]


def list_settings(family: Family) -> dict[str, Any]:
    """List a family's non-default fields, so that a new field in the table leaves existing keys unchanged."""
    return {one.name: value for one in fields(family) if (value := getattr(family, one.name)) != one.default}
