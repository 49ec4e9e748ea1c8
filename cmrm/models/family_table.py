"""The table of listed model types: the row of each, and the media that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from cmrm.models.families import Family, MediaForm

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
