"""Tiny Qwen2-VL to Qwen3.5, whose positions are three numbers a token, and EXAONE 4.5, whose are not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    Exaone4_5_Config,
    Exaone4_5_ForConditionalGeneration,
    Exaone4_5_Processor,
    Exaone4Config,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessorPil,
    Qwen2VLProcessor,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    Qwen3VLProcessor,
)

from tests.conformance.parts import EXPERTS, TEXT, TOWER, make_tokenizer, save, token_ids

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
DEEPSTACK = {"deepstack_visual_indexes": [0]}
LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "partial_rotary_factor": 1.0,
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
    "<|vision_start|><|image_pad|><|vision_end|>{% elif content['type'] == 'video' %}"
    "<|vision_start|><|video_pad|><|vision_end|>{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n"
)
QWEN_END = "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
QWEN2 = "{% for message in messages %}" + DEFAULT_SYSTEM + QWEN_TURN + QWEN_END
QWEN3 = "{% for message in messages %}" + QWEN_TURN + QWEN_END


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
                **VISION, "hidden_size": 32, "out_hidden_size": 32, "window_size": 2 * UNIT, "tokens_per_second": 1,
                "fullatt_block_indexes": [1],
            },
            text_config={**TEXT, **token_ids(tokenizer), "rope_parameters": MROPE},
            **_qwen_ids(tokenizer),
        )
    )  # fmt: skip
    return save(folder, model, Qwen2_5_VLProcessor(**_qwen_parts(tokenizer), chat_template=QWEN2))


def build_qwen3_vl(folder: Path) -> Path:
    """Qwen3-VL: the tower's first layer is also added to the states after the first block."""
    return _build_qwen3(folder, Qwen3VLForConditionalGeneration, Qwen3VLConfig, tower=DEEPSTACK, text={})


def build_qwen3_vl_moe(folder: Path) -> Path:
    """Qwen3-VL of experts: each token goes through two of four."""
    return _build_qwen3(
        folder, Qwen3VLMoeForConditionalGeneration, Qwen3VLMoeConfig, tower=DEEPSTACK, text=EXPERTS
    )


def build_qwen3_5(folder: Path) -> Path:
    """Qwen3.5: three blocks of linear attention, then one of attention."""
    return _build_qwen3(folder, Qwen3_5ForConditionalGeneration, Qwen3_5Config, tower={}, text=LINEAR)


def build_qwen3_5_moe(folder: Path) -> Path:
    """Qwen3.5 of experts, and one that all tokens share."""
    return _build_qwen3(
        folder,
        Qwen3_5MoeForConditionalGeneration,
        Qwen3_5MoeConfig,
        tower={},
        text={**LINEAR, **EXPERTS, "shared_expert_intermediate_size": 32},
    )


def _build_qwen3(
    folder: Path, model: Any, config: Any, *, tower: Mapping[str, Any], text: Mapping[str, Any]
) -> Path:
    from transformers import Qwen3VLVideoProcessor

    tokenizer = _qwen_tokenizer()
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=SIZE, **GRID),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=SIZE, **GRID),
        chat_template=QWEN3,
    )
    drawn = model(
        config(
            vision_config={
                **VISION, "hidden_size": 32, "out_hidden_size": 32, "num_position_embeddings": 16, **tower,
            },
            text_config={
                **TEXT, **token_ids(tokenizer), "head_dim": 8,
                "rope_parameters": {**MROPE, "mrope_interleaved": True}, **text,
            },
            **_qwen_ids(tokenizer),
        )
    )  # fmt: skip
    return save(folder, drawn, processor)


def build_exaone4_5(folder: Path) -> Path:
    """EXAONE 4.5: a tower as of Qwen2.5-VL, and blocks of which three in four have windows."""
    tokenizer = _qwen_tokenizer()
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    model = Exaone4_5_ForConditionalGeneration(
        Exaone4_5_Config(
            vision_config={
                **VISION, "num_key_value_heads": 2, "hidden_size": 32, "out_hidden_size": 32,
                "window_size": 2 * UNIT, "fullatt_block_indexes": [1],
            },
            text_config=Exaone4Config(**TEXT, **token_ids(tokenizer), sliding_window=12, layer_types=kinds),
            image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
            video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        )
    )  # fmt: skip
    return save(folder, model, Exaone4_5_Processor(**_qwen_parts(tokenizer), chat_template=QWEN3))


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
