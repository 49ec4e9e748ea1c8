"""Tiny DeepSeek-VL, with one tower and with two."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    DeepseekVLConfig,
    DeepseekVLForConditionalGeneration,
    DeepseekVLHybridConfig,
    DeepseekVLHybridForConditionalGeneration,
    DeepseekVLHybridImageProcessorPil,
    DeepseekVLHybridProcessor,
    DeepseekVLImageProcessorPil,
    DeepseekVLProcessor,
    LlamaConfig,
    SamVisionConfig,
    SiglipVisionConfig,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 16, 8
SQUARE = {"height": SIDE, "width": SIDE}
# The second tower sees the image twice as large.
LARGE = {"height": 2 * SIDE, "width": 2 * SIDE}
IMAGE_TOKENS = (SIDE // PATCH) ** 2
SIGLIP = SiglipVisionConfig(image_size=SIDE, patch_size=PATCH, vision_use_head=False, **TOWER)
TURNS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ message['content'][0]['text'] }}{% else %}{{ message['role'] | capitalize }}: "
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}<image_placeholder>"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{% endif %}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def build_deepseek_vl(folder: Path) -> Path:
    """DeepSeek-VL: SigLIP and Llama."""
    tokenizer = _make_tokenizer()
    model = DeepseekVLForConditionalGeneration(
        DeepseekVLConfig(
            vision_config=SIGLIP,
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        )
    )
    processor = DeepseekVLProcessor(
        image_processor=DeepseekVLImageProcessorPil(size=SQUARE, min_size=1),
        tokenizer=tokenizer,
        num_image_tokens=IMAGE_TOKENS,
        chat_template=TURNS,
    )
    return save(folder, model, processor)


def build_deepseek_vl_hybrid(folder: Path) -> Path:
    """DeepSeek-VL of 7 billion: SAM on a larger image beside SigLIP."""
    tokenizer = _make_tokenizer()
    model = DeepseekVLHybridForConditionalGeneration(
        DeepseekVLHybridConfig(
            vision_config=SIGLIP,
            high_res_vision_config=SamVisionConfig(
                **TOWER, image_size=2 * SIDE, patch_size=PATCH, output_channels=8, window_size=2,
                global_attn_indexes=[1],
            ),
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            image_token_id=tokenizer.convert_tokens_to_ids("<image_placeholder>"),
        )
    )  # fmt: skip
    processor = DeepseekVLHybridProcessor(
        image_processor=DeepseekVLHybridImageProcessorPil(size=SQUARE, high_res_size=LARGE, min_size=1),
        tokenizer=tokenizer,
        num_image_tokens=IMAGE_TOKENS,
        chat_template=TURNS,
    )
    return save(folder, model, processor)


def _make_tokenizer():
    return make_tokenizer(
        ["<begin>", "<end>", "<pad>", "<image_placeholder>"],
        pad="<pad>",
        bos="<begin>",
        eos="<end>",
        named={"image_token": "<image_placeholder>"},
    )
