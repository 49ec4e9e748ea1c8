"""Tiny FastVLM and Perception LM, whose towers come from timm: here transformers' own stand in for them."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    FastVlmConfig,
    FastVlmForConditionalGeneration,
    LlamaConfig,
    LlavaProcessor,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    Qwen2Config,
    SegformerConfig,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 32, 8
SQUARE = {"height": SIDE, "width": SIDE}
# Its result is [images, channels, rows, columns], as FastViT's is.
ROWS_AND_COLUMNS = SegformerConfig(
    num_encoder_blocks=2,
    depths=[1, 1],
    sr_ratios=[2, 1],
    hidden_sizes=[16, 32],
    num_attention_heads=[1, 2],
    mlp_ratios=[2, 2],
)

FAST_VLM = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}{{ '<image>\n' }}{% elif content['type'] == 'text' %}{{ content['text'] }}"
    "{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PERCEPTION_LM = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<|image|>' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def build_fast_vlm(folder: Path) -> Path:
    """FastVLM: a convolutional tower, and Qwen2."""
    tokenizer = make_tokenizer(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"], pad="<|endoftext|>", eos="<|im_end|>"
    )
    model = FastVlmForConditionalGeneration(
        FastVlmConfig(
            # The projector asks it for its width.
            vision_config={**ROWS_AND_COLUMNS.to_dict(), "hidden_size": 32},
            text_config=Qwen2Config(**TEXT, **token_ids(tokenizer)),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size=SQUARE, image_mean=[0.0] * 3, image_std=[1.0] * 3
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        num_additional_image_tokens=0,
        chat_template=FAST_VLM,
    )
    return save(folder, model, processor)


def build_perception_lm(folder: Path) -> Path:
    """Perception LM: a tower on tiles of the image, whose tokens are pooled, and Llama 3."""
    from transformers import (
        PerceptionLMImageProcessor,
        PerceptionLMProcessor,
        PerceptionLMVideoProcessor,
    )

    tokenizer = make_tokenizer(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|image|>",
         "<|video|>"],
        pad="<|end_of_text|>",
        bos="<|begin_of_text|>",
        eos="<|eot_id|>",
        named={"image_token": "<|image|>", "video_token": "<|video|>"},
    )  # fmt: skip
    model = PerceptionLMForConditionalGeneration(
        PerceptionLMConfig(
            # The projector asks it for its width there.
            vision_config=CLIPVisionConfig(
                image_size=SIDE, patch_size=PATCH, **TOWER, model_args={"embed_dim": TOWER["hidden_size"]}
            ),
            text_config=LlamaConfig(**TEXT, **token_ids(tokenizer)),
            projector_pooling_ratio=2,
            image_token_id=tokenizer.image_token_id,
            video_token_id=tokenizer.video_token_id,
        )
    )
    processor = PerceptionLMProcessor(
        image_processor=PerceptionLMImageProcessor(size=SQUARE, tile_size=SIDE, max_num_tiles=4),
        tokenizer=tokenizer,
        video_processor=PerceptionLMVideoProcessor(size=SQUARE),
        patch_size=PATCH,
        pooling_ratio=2,
        chat_template=PERCEPTION_LM,
    )
    return save(folder, model, processor)
