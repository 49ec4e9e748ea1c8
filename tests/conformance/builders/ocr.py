"""Tiny LightOnOCR, PaddleOCR-VL and VideoLLaMA 3: towers that take images of any size."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    LightOnOcrConfig,
    LightOnOcrForConditionalGeneration,
    LightOnOcrProcessor,
    PaddleOCRVLConfig,
    PaddleOCRVLForConditionalGeneration,
    PaddleOCRVLImageProcessorPil,
    PaddleOCRVLProcessor,
    PixtralImageProcessorPil,
    PixtralVisionConfig,
    Qwen2Config,
    Qwen3Config,
    VideoLlama3Config,
    VideoLlama3ForConditionalGeneration,
    VideoLlama3ImageProcessorPil,
    VideoLlama3Processor,
)

from tests.conformance.builders.qwen import MROPE, QWEN3
from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

PATCH, MERGE = 8, 2
UNIT = PATCH * MERGE
# Pixels, not edges: 2 × 2 to 4 × 4 image tokens.
SIZE = {"shortest_edge": (2 * UNIT) ** 2, "longest_edge": (4 * UNIT) ** 2}

PADDLE_OCR = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ 'User: ' }}{% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<|IMAGE_START|><|IMAGE_PLACEHOLDER|><|IMAGE_END|>' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:\n' }}{% endif %}"
)


def build_lighton_ocr(folder: Path) -> Path:
    """LightOnOCR: Pixtral's tower, and Qwen3."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_pad|>", "<|vision_end|>",
         "<|vision_start|>"],
        pad="<|endoftext|>",
        eos="<|im_end|>",
        named={
            "image_token": "<|image_pad|>",
            "image_break_token": "<|vision_pad|>",
            "image_end_token": "<|vision_end|>",
        },
    )  # fmt: skip
    model = LightOnOcrForConditionalGeneration(
        LightOnOcrConfig(
            vision_config=PixtralVisionConfig(image_size=2 * 32, patch_size=PATCH, **TOWER),
            text_config=Qwen3Config(**TEXT, **token_ids(tokenizer), head_dim=8),
            image_token_id=tokenizer.image_token_id,
            tie_word_embeddings=False,
        )
    )
    processor = LightOnOcrProcessor(
        image_processor=PixtralImageProcessorPil(
            size={"longest_edge": 2 * 32}, patch_size={"height": UNIT, "width": UNIT}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=MERGE,
        chat_template=QWEN3,
    )
    return save(folder, model, processor)


def build_paddleocr_vl(folder: Path) -> Path:
    """PaddleOCR-VL: positions of three numbers a token, and Ernie 4.5."""
    tokenizer = make_tokenizer(
        [
            "<unk>",
            "<s>",
            "</s>",
            "<|IMAGE_PLACEHOLDER|>",
            "<|video_pad|>",
            "<|IMAGE_START|>",
            "<|IMAGE_END|>",
        ],
        pad="<unk>",
        bos="<s>",
        eos="</s>",
        named={"image_token": "<|IMAGE_PLACEHOLDER|>"},
    )
    names = {
        "image_token_id": "<|IMAGE_PLACEHOLDER|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|IMAGE_START|>",
        "vision_end_token_id": "<|IMAGE_END|>",
    }
    model = PaddleOCRVLForConditionalGeneration(
        PaddleOCRVLConfig(
            vision_config={**TOWER, "image_size": 4 * UNIT, "patch_size": PATCH, "spatial_merge_size": MERGE},
            text_config={**TEXT, **token_ids(tokenizer), "head_dim": 8, "rope_parameters": MROPE},
            tie_word_embeddings=False,
            **{name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()},
        )
    )
    processor = PaddleOCRVLProcessor(
        image_processor=PaddleOCRVLImageProcessorPil(
            size=SIZE, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=1
        ),
        tokenizer=tokenizer,
        chat_template=PADDLE_OCR,
    )
    return save(folder, model, processor)


def build_video_llama_3(folder: Path) -> Path:
    """VideoLLaMA 3: a tower of two-dimensional positions, and Qwen2, whose positions are counted."""
    from transformers import VideoLlama3VideoProcessor

    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
         "<|video_pad|>"],
        pad="<|endoftext|>",
        eos="<|im_end|>",
        named={"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
    )  # fmt: skip
    model = VideoLlama3ForConditionalGeneration(
        VideoLlama3Config(
            vision_config={**TOWER, "patch_size": PATCH},
            text_config=Qwen2Config(**TEXT, **token_ids(tokenizer)),
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
        )
    )
    processor = VideoLlama3Processor(
        image_processor=VideoLlama3ImageProcessorPil(
            size=SIZE, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=1
        ),
        tokenizer=tokenizer,
        video_processor=VideoLlama3VideoProcessor(size=SIZE, patch_size=PATCH, merge_size=MERGE),
        chat_template=QWEN3,
    )
    return save(folder, model, processor)
