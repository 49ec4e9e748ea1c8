"""What differs between model types: one row a type, looked up, never guessed from module names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Literal

from cmrm.errors import UserError

# Where a package of the user's own registers rows: each entry is named after its model type and is a `Family`.
ENTRY_POINTS = "cmrm.families"

Positions = Literal["counted", "multimodal"]
Shares = Literal["all", "text", "nothing"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """Where one model type keeps its parts, and what its processor and its decoder ask for.

    `blocks`: the attribute path from `model.get_decoder()` to the list of decoder blocks.
    `image_token`: the path in `config.json` to the id of the image placeholder token.
    `positions`: `counted` over the prompt's tokens from `first_position` on, or `multimodal`: several a token, which
    the model computes by itself from the image's grid (M-RoPE).
    `image_only_blocks`: the path in `config.json` to the numbers of the blocks that are skipped without an image.
    `mixed_batches`: whether prompts with and without an image can share a batch.
    `system`: the system line of prompts that are given none, where the template would else treat the arms unlike.
    `shares`: which prompts can be read in two parts, what several have in common once, and then the rest of each: those
    with an image and those without, those without alone, or none. In a decoder that is read so, no token sees a later
    one and the image lies in the prompt, and it takes a cache and positions; the doctor tries it.
    `attention`: the implementation that `model.attn_implementation: auto` stands for.
    `template`: a chat template for processors that are published without one; a processor's own goes first.
    `text_only_form`: for processors that refuse text alone, what they make of a rendered prompt: a format string over
    `bos` and `prompt`. Such prompts go through the tokenizer.
    """

    model_type: str
    blocks: str
    image_token: str
    positions: Positions = "counted"
    first_position: int = 0
    image_only_blocks: str | None = None
    mixed_batches: bool = True
    shares: Shares = "nothing"
    attention: Attention = "sdpa"
    system: str | None = None
    template: str | None = None
    text_only_form: str | None = None


# The documented prompt form of PaliGemma: the image's tokens, then the text; its processor adds <bos> and a new line.
PALIGEMMA_TEMPLATE = (
    "{% for message in messages if message.role != 'system' %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
)

_ROWS = (
    Family(model_type="aya_vision", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="gemma3", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="glm4v",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(model_type="idefics3", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="internvl", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="llama4", blocks="model.layers", image_token="image_token_id", shares="all"),
    Family(model_type="llava", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="llava_next", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="llava_onevision", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="mistral3", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="mllama",
        blocks="layers",
        image_token="image_token_id",
        mixed_batches=False,
        image_only_blocks="text_config.cross_attention_layers",
        # Its image is in no prompt: blocks of their own attend to it.
        shares="text",
        # Its template prints a system header with a system line and wherever there is no image.
        system="",
    ),
    Family(
        model_type="paligemma",
        blocks="layers",
        image_token="image_token_id",
        first_position=1,
        mixed_batches=False,
        # Each token of its prompts sees all others, later ones too.
        shares="nothing",
        # Gemma 2, the backbone of PaliGemma 2, runs on no other in transformers.
        attention="eager",
        template=PALIGEMMA_TEMPLATE,
        text_only_form="{bos}{prompt}\n",
    ),
    Family(
        model_type="qwen2_5_vl",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="qwen2_vl",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="qwen3_vl",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(model_type="smolvlm", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="vipllava", blocks="layers", image_token="image_token_id", shares="all"),
)
FAMILIES: Mapping[str, Family] = MappingProxyType({row.model_type: row for row in _ROWS})


def get_family(model_type: str, *, where: str) -> Family:
    """Look up a model type in the table, then among the rows that installed packages register.

    `where` names the model in the error. Raises `UserError` for a type without a row, naming what to add, and for a
    registered row that cannot be had.
    """
    family = FAMILIES.get(model_type) or _find_registered(model_type)
    if family is None:
        raise UserError(
            f"model type {model_type!r} of {where} is not known: known types are {', '.join(sorted(FAMILIES))}. "
            f"To add it, say in the spec or register from a package of your own (entry-point group {ENTRY_POINTS!r}, "
            "an entry named after the type) a Family: `blocks`, the path from get_decoder() to its decoder blocks, and "
            "`image_token`, the config field of its image token."
        )
    return family


def _find_registered(model_type: str) -> Family | None:
    for entry in entry_points(group=ENTRY_POINTS, name=model_type):
        place = f"{entry.value} (entry point {entry.name!r} of group {ENTRY_POINTS!r})"
        try:
            family = entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"{place} cannot be imported: {error}. Mend or uninstall its package.") from error
        if not isinstance(family, Family) or family.model_type != model_type:
            raise UserError(f"{place} is not a Family for model type {model_type!r} but {family!r}.")
        return family
    return None
