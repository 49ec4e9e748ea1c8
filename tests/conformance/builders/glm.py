"""Tiny GLM-4V, of experts too, and GLM-4.6V: positions of three numbers a token, computed by the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessorPil,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Glm4vProcessor,
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessorPil,
    Glm46VProcessor,
    GlmOcrConfig,
    GlmOcrForConditionalGeneration,
)

from tests.conformance.builders.qwen import GRID, MROPE, SIZE, UNIT, VISION
from tests.conformance.parts import EXPERTS, TEXT, make_tokenizer, save, token_ids

TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif item['type'] == 'video' %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def build_glm4v(folder: Path) -> Path:
    """GLM-4V: norms on both sides of each part of a block."""
    return _build(folder, Glm4vForConditionalGeneration, Glm4vConfig)


def build_glm4v_moe(folder: Path) -> Path:
    """GLM-4.5V: a dense block, then three of experts, of which all tokens share one."""
    return _build(
        folder,
        Glm4vMoeForConditionalGeneration,
        Glm4vMoeConfig,
        text={**EXPERTS, "n_routed_experts": EXPERTS["num_experts"]},
    )


def build_glm46v(folder: Path) -> Path:
    """GLM-4.6V: the parts of GLM-4V behind a processor of its own."""
    return _build(
        folder, Glm46VForConditionalGeneration, Glm46VConfig, parts=(Glm46VProcessor, Glm46VImageProcessorPil)
    )


def build_glm_ocr(folder: Path) -> Path:
    """GLM-OCR: its tower normalizes queries and keys."""
    return _build(
        folder, GlmOcrForConditionalGeneration, GlmOcrConfig, parts=(Glm46VProcessor, Glm46VImageProcessorPil)
    )


def _build(
    folder: Path,
    model: Any,
    config: Any,
    *,
    text: Mapping[str, Any] | None = None,
    parts: tuple[Any, Any] = (Glm4vProcessor, Glm4vImageProcessorPil),
) -> Path:
    from transformers import Glm4vVideoProcessor, Glm46VVideoProcessor

    tokenizer = make_tokenizer(
        ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|begin_of_image|>",
         "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>"],
        pad="<|endoftext|>",
        eos="<|endoftext|>",
    )  # fmt: skip
    names = {
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "image_start_token_id": "<|begin_of_image|>",
        "image_end_token_id": "<|end_of_image|>",
        "video_start_token_id": "<|begin_of_video|>",
        "video_end_token_id": "<|end_of_video|>",
    }
    drawn = model(
        config(
            vision_config={**VISION, "hidden_size": 32, "out_hidden_size": 32, "image_size": 4 * UNIT},
            text_config={
                **TEXT, **token_ids(tokenizer),
                "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0}, **(text or {}),
            },
            **{name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()},
        )
    )  # fmt: skip
    processor, images = parts
    videos = Glm4vVideoProcessor if processor is Glm4vProcessor else Glm46VVideoProcessor
    return save(
        folder,
        drawn,
        processor(
            image_processor=images(size=SIZE, **GRID),
            tokenizer=tokenizer,
            video_processor=videos(size=SIZE, **GRID),
            chat_template=TEMPLATE,
        ),
    )
