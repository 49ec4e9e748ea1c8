"""Model families: one row of architecture facts for each model type, looked up, never guessed from module names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from importlib.metadata import entry_points, version
from types import MappingProxyType
from typing import Any, Literal

from cmrm.errors import UserError

# Entry-point group in which a package registers rows: each entry is named after its model type and is a `Family`.
ENTRY_POINTS = "cmrm.families"

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
    `streams`: the path in `config.json` to the number of parallel residual streams, for blocks that give
    [streams, rows, tokens, hidden]; the state is all of them side by side.
    `logit_bound`: the path in `config.json` to the bound b of models that answer from b · tanh(logits / b); null there
    is none.
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


# The documented prompt format of PaliGemma (its processor adds <bos> and a newline) and of Chameleon (its processor
# adds the mark that ends a turn): image tokens, then the text.
PLAIN_TEMPLATE = (
    "{% for message in messages if message.role != 'system' %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
)

_ROWS = (
    Family(model_type="aria", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="aya_vision", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="chameleon",
        blocks="layers",
        image_token="image_token_id",
        # It rules out the words of images behind its head, which arms that are decoded together would not see.
        shares="nothing",
        template=PLAIN_TEMPLATE,
    ),
    Family(model_type="cohere2_vision", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="deepseek_vl", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="deepseek_vl_hybrid", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="emu3",
        blocks="layers",
        image_token="image_token_id",
        # Its processor pads the images of a batch to the largest, and its tower sees the padding.
        batches=False,
        mixed_batches=False,
    ),
    Family(
        model_type="ernie4_5_vl_moe",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(model_type="exaone4_5", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="fast_vlm", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="gemma3", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="gemma3n",
        blocks="layers",
        image_token="image_token_id",
        shares="all",
        streams="text_config.altup_num_inputs",
        logit_bound="text_config.final_logit_softcapping",
    ),
    Family(
        model_type="gemma4",
        blocks="layers",
        image_token="image_token_id",
        shares="all",
        logit_bound="text_config.final_logit_softcapping",
        # Its sound tower knows no other in transformers.
        attention="eager",
    ),
    Family(
        model_type="gemma4_unified",
        blocks="layers",
        image_token="image_token_id",
        shares="all",
        logit_bound="text_config.final_logit_softcapping",
    ),
    Family(
        model_type="glm46v",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="glm4v",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="glm4v_moe",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="glm_ocr",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="idefics2",
        blocks="layers",
        image_token="image_token_id",
        # Its processor puts a space between an image and a word, and none before a line break or a mark.
        shares="text",
    ),
    Family(model_type="idefics3", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="internvl", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="janus", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="kimi_k25", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="lfm2_vl",
        blocks="layers",
        image_token="image_token_id",
        # Its convolutions keep the last tokens' states alone, which cannot be cut at an earlier one.
        shares="nothing",
    ),
    Family(model_type="lighton_ocr", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="llama4", blocks="model.layers", image_token="image_token_id", shares="all"),
    Family(model_type="llava", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="llava_next",
        blocks="layers",
        image_token="image_token_id",
        shares="all",
        # At 336 pixels its grid is 336 × 672, and both tiles are half black padding.
        image_size=672,
    ),
    Family(
        model_type="llava_next_video",
        blocks="layers",
        image_token="image_token_id",
        shares="all",
        # As LLaVA-NeXT.
        image_size=672,
    ),
    Family(model_type="llava_onevision", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="mistral3", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="mllama",
        blocks="layers",
        image_token="image_token_id",
        mixed_batches=False,
        image_only_blocks="text_config.cross_attention_layers",
        # Its image is not in the prompt: cross-attention blocks attend to it.
        shares="text",
        # Its template prints a system header with a system line, and always without an image.
        system="",
    ),
    Family(model_type="ovis2", blocks="layers", image_token="image_token_id", shares="all"),
    Family(
        model_type="paddleocr_vl",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="paligemma",
        blocks="layers",
        image_token="image_token_id",
        first_position=1,
        mixed_batches=False,
        # Attention over the prompt is bidirectional (prefix LM).
        shares="nothing",
        # Gemma 2, the backbone of PaliGemma 2, supports no other in transformers.
        attention="eager",
        template=PLAIN_TEMPLATE,
        text_only_form="{bos}{prompt}\n",
    ),
    Family(
        model_type="perception_lm",
        blocks="layers",
        image_token="image_token_id",
        shares="all",
        tiles_together=False,
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
        model_type="qwen3_5",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        # Linear attention keeps one state of a prompt, which cannot be cut at a token.
        shares="nothing",
    ),
    Family(
        model_type="qwen3_5_moe",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="nothing",
    ),
    Family(
        model_type="qwen3_vl",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(
        model_type="qwen3_vl_moe",
        blocks="layers",
        image_token="image_token_id",
        positions="multimodal",
        shares="all",
    ),
    Family(model_type="smolvlm", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="step3p7", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="video_llama_3", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="video_llava", blocks="layers", image_token="image_token_id", shares="all"),
    Family(model_type="vipllava", blocks="layers", image_token="image_token_id", shares="all"),
)
# What the types take besides one image; those that are not named take no more. Found by test, see docs/media.md.
_IMAGES: tuple[MediaForm, ...] = ("images",)
_VIDEO: tuple[MediaForm, ...] = ("images", "video")
_MIXED: tuple[MediaForm, ...] = ("images", "video", "mixed")
_MEDIA: Mapping[str, tuple[MediaForm, ...]] = {
    "aria": _IMAGES,
    "aya_vision": _IMAGES,
    "chameleon": _IMAGES,
    "cohere2_vision": _IMAGES,
    "deepseek_vl": _IMAGES,
    "deepseek_vl_hybrid": _IMAGES,
    "emu3": _IMAGES,
    "ernie4_5_vl_moe": _IMAGES,
    "exaone4_5": _MIXED,
    "fast_vlm": _IMAGES,
    "gemma3": _IMAGES,
    "gemma4": ("images", "video", "audio", "mixed"),
    "gemma4_unified": _MIXED,
    # Frames of a video have the token of images, which the model counts together with them.
    "glm46v": _VIDEO,
    "glm4v": _VIDEO,
    "glm4v_moe": _VIDEO,
    "glm_ocr": _VIDEO,
    "idefics2": _IMAGES,
    "idefics3": _IMAGES,
    "internvl": _MIXED,
    "janus": _IMAGES,
    "kimi_k25": _IMAGES,
    "lfm2_vl": _IMAGES,
    "lighton_ocr": _IMAGES,
    "llama4": _IMAGES,
    "llava": _IMAGES,
    "llava_next": _IMAGES,
    "llava_next_video": _MIXED,
    "llava_onevision": _MIXED,
    "mistral3": _IMAGES,
    # mllama: a prompt's states depend on how many images others in its batch have.
    "ovis2": _IMAGES,
    "paddleocr_vl": _IMAGES,
    "paligemma": _IMAGES,
    # perception_lm: its processor stacks images of one number of tiles alone.
    "qwen2_5_vl": _MIXED,
    "qwen2_vl": _MIXED,
    "qwen3_5": _MIXED,
    "qwen3_5_moe": _MIXED,
    "qwen3_vl": _MIXED,
    "qwen3_vl_moe": _MIXED,
    # Its processor drops the images beside a video.
    "smolvlm": _VIDEO,
    "step3p7": _IMAGES,
    # Its processor leaves out frames that are alike, so that a blank video is shorter.
    "video_llama_3": _IMAGES,
    "video_llava": _MIXED,
    "vipllava": _IMAGES,
}
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {row.model_type: replace(row, media=_MEDIA.get(row.model_type, ())) for row in _ROWS}
)


def get_family(model_type: str, *, where: str) -> Family:
    """Look up a model type in the table, then among the rows that installed packages register.

    `where` names the model in the error. Raises `UserError` for a type without a row, naming what to add, and for a
    registered row that cannot be imported.
    """
    family = find_family(model_type)
    if family is None:
        raise UserError(
            f"model type {model_type!r} of {where} is in no table: listed types are {', '.join(sorted(FAMILIES))}. "
            f"Give a row in the spec, such as model.family: {EXAMPLE_ROW} (`blocks`: the path from get_decoder() to "
            "its decoder blocks; `image_token`: the config field of its image token), or register a Family from a "
            f"package of your own (entry-point group {ENTRY_POINTS!r}); see {PAGE}."
        )
    return family


def find_family(model_type: str) -> Family | None:
    """Find the row of a model type, as `get_family` does; None for a type without one."""
    return FAMILIES.get(model_type) or _find_registered(model_type)


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


def is_of_table(family: Family, model: object) -> bool:
    """Whether the table describes a model: its row is unchanged, and its class is transformers' own."""
    own_class = type(model).__module__.partition(".")[0] == "transformers"
    return own_class and family == FAMILIES.get(family.model_type)


def _find_registered(model_type: str) -> Family | None:
    for entry in entry_points(group=ENTRY_POINTS, name=model_type):
        place = f"{entry.value} (entry point {entry.name!r} of group {ENTRY_POINTS!r})"
        try:
            family = entry.load()
        except (ImportError, AttributeError) as error:
            raise UserError(f"{place} cannot be imported: {error}. Fix or uninstall its package.") from error
        if not isinstance(family, Family) or family.model_type != model_type:
            raise UserError(f"{place} is not a Family for model type {model_type!r} but {family!r}.")
        return family
    return None
