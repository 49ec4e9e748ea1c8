"""Tiny Qwen2-VL, Qwen2.5-VL, Qwen3-VL and GLM-4V: positions of three numbers a token, computed by the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessorPil,
    Glm4vProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

PATCH, MERGE = 8, 2
UNIT = PATCH * MERGE
# Pixels, not edges: 2 × 2 to 4 × 4 image tokens.
SIZE = {"shortest_edge": (2 * UNIT) ** 2, "longest_edge": (4 * UNIT) ** 2}
GRID = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": 2}
# Of the 8 dimensions of a head, 4 pairs: one for time, two for height, one for width.
MROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 2, 1]}
VISION = {
    "depth": TOWER["num_hidden_layers"],
    "num_heads": TOWER["num_attention_heads"],
    "intermediate_size": TOWER["intermediate_size"],
    "patch_size": PATCH,
    "spatial_merge_size": MERGE,
    "temporal_patch_size": 2,
}
QWEN_WORDS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
]  # fmt: skip

# Qwen2-VL and 2.5 put a system line of their own where none is given, with an image and without; Qwen3-VL does not.
DEFAULT_SYSTEM = (
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
)
QWEN_TURN = (
    "<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n"
)
QWEN_END = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
QWEN2 = "{% for message in messages %}" + DEFAULT_SYSTEM + QWEN_TURN + QWEN_END
QWEN3 = "{% for message in messages %}" + QWEN_TURN + QWEN_END
GLM4V = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{% for item in message['content'] %}"
    "{% if item['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif item['type'] == 'text' %}{{ item['text'] }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def build_qwen2_vl(folder: Path) -> Path:
    """Qwen2-VL."""
    tokenizer = _qwen_tokenizer()
    vision = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    model = Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            vision_config={**vision, "embed_dim": 32, "mlp_ratio": 2, "hidden_size": 32},
            text_config={**TEXT, **token_ids(tokenizer), "rope_parameters": MROPE},
            **_qwen_ids(tokenizer),
        )
    )
    return save(folder, model, Qwen2VLProcessor(**_qwen_parts(tokenizer), chat_template=QWEN2))


def build_qwen2_5_vl(folder: Path) -> Path:
    """Qwen2.5-VL: one layer of its tower looks through windows."""
    tokenizer = _qwen_tokenizer()
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            vision_config={
                **VISION, "hidden_size": 32, "out_hidden_size": 32, "window_size": 2 * UNIT,
                "fullatt_block_indexes": [1],
            },
            text_config={**TEXT, **token_ids(tokenizer), "rope_parameters": MROPE},
            **_qwen_ids(tokenizer),
        )
    )  # fmt: skip
    return save(folder, model, Qwen2_5_VLProcessor(**_qwen_parts(tokenizer), chat_template=QWEN2))


def build_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: the tower's first layer is also added to the states after the first block."""
    from transformers import Qwen3VLVideoProcessor

    tokenizer = _qwen_tokenizer()
    model = Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            vision_config={
                **VISION, "hidden_size": 32, "out_hidden_size": 32, "num_position_embeddings": 16,
                "deepstack_visual_indexes": [0],
            },
            text_config={
                **TEXT, **token_ids(tokenizer), "head_dim": 8,
                "rope_parameters": {**MROPE, "mrope_interleaved": True},
            },
            **_qwen_ids(tokenizer),
        )
    )  # fmt: skip
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=SIZE, **GRID),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=SIZE, **GRID),
        chat_template=QWEN3,
    )
    return save(folder, model, processor)


def build_glm4v(folder: Path) -> Path:
    """GLM-4V: norms on both sides of each part of a block."""
    from transformers import Glm4vVideoProcessor

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
    model = Glm4vForConditionalGeneration(
        Glm4vConfig(
            vision_config={**VISION, "hidden_size": 32, "out_hidden_size": 32, "image_size": 4 * UNIT},
            text_config={
                **TEXT, **token_ids(tokenizer),
                "rope_parameters": {**MROPE, "partial_rotary_factor": 1.0},
            },
            **{name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()},
        )
    )  # fmt: skip
    processor = Glm4vProcessor(
        image_processor=Glm4vImageProcessorPil(size=SIZE, **GRID),
        tokenizer=tokenizer,
        video_processor=Glm4vVideoProcessor(size=SIZE, **GRID),
        chat_template=GLM4V,
    )
    return save(folder, model, processor)


def _qwen_tokenizer():
    return make_tokenizer(QWEN_WORDS, pad="<|endoftext|>", eos="<|im_end|>")


def _qwen_ids(tokenizer) -> Mapping[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()}


def _qwen_parts(tokenizer) -> Mapping[str, Any]:
    from transformers import Qwen2VLVideoProcessor

    return {
        "image_processor": Qwen2VLImageProcessorPil(size=SIZE, **GRID),
        "tokenizer": tokenizer,
        "video_processor": Qwen2VLVideoProcessor(size=SIZE, **GRID),
    }
