"""Tiny Kimi K2.5 and Step 3.7: mixtures of experts behind towers of their own."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    DeepseekV3Config,
    Kimi_K25Config,
    Kimi_K25ForConditionalGeneration,
    Step3p7Config,
    Step3p7ForConditionalGeneration,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 32, 8

KIMI = (
    "{% for message in messages %}{{ '<|im_' + message['role'] + '|>' + message['role'] + '<|im_middle|>' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{{ '<|media_begin|>image<|media_content|><|media_pad|><|media_end|>\n' }}{% elif content['type'] == 'text' %}"
    "{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
STEP = (
    "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<im_patch>' }}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_kimi_k25(folder: Path) -> Path:
    """Kimi K2.5: a tower for images of any size, and DeepSeek V3, whose keys and values are compressed."""
    from transformers import Kimi_K25ImageProcessor, Kimi_K25Processor, Kimi_K25VideoProcessor

    tokenizer = make_tokenizer(
        ["[PAD]", "[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>",
         "<|media_begin|>", "<|media_content|>", "<|media_end|>", "<|media_pad|>", "<|kimi_k25_video_placeholder|>"],
        pad="[PAD]",
        bos="[BOS]",
        eos="<|im_end|>",
    )  # fmt: skip
    names = {
        "image_token_id": "<|media_pad|>",
        "video_token_id": "<|kimi_k25_video_placeholder|>",
        "vision_start_token_id": "<|media_begin|>",
        "vision_end_token_id": "<|media_end|>",
    }
    text = DeepseekV3Config(
        **{**TEXT, "num_key_value_heads": TEXT["num_attention_heads"]},
        **token_ids(tokenizer),
        # The first block has no experts.
        first_k_dense_replace=1,
        moe_intermediate_size=32,
        n_routed_experts=4,
        num_experts_per_tok=2,
        n_shared_experts=1,
        n_group=2,
        topk_group=1,
        kv_lora_rank=16,
        q_lora_rank=16,
        qk_rope_head_dim=4,
        qk_nope_head_dim=8,
        v_head_dim=8,
    )
    model = Kimi_K25ForConditionalGeneration(
        Kimi_K25Config(
            vision_config={**TOWER, "patch_size": PATCH, "pos_emb_height": 8, "pos_emb_width": 8},
            text_config=text,
            projection_hidden_size=TOWER["hidden_size"],
            tie_word_embeddings=False,
            **{name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()},
        )
    )
    size = {"max_height": 8, "max_width": 8}
    processor = Kimi_K25Processor(
        image_processor=Kimi_K25ImageProcessor(size=size, patch_size=PATCH),
        tokenizer=tokenizer,
        video_processor=Kimi_K25VideoProcessor(size=size, patch_size=PATCH),
        chat_template=KIMI,
    )
    return save(folder, model, processor)


def build_step3p7(folder: Path) -> Path:
    """Step 3.7: the whole image and pieces of large ones, and blocks with windows, gates and experts."""
    from transformers import Step3p7ImageProcessor, Step3p7Processor

    tokenizer = make_tokenizer(
        ["<|begin_of_sentence|>", "<|end_of_sentence|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<im_patch>",
         "<im_start>", "<im_end>", "<patch_start>", "<patch_end>", "<patch_newline>"],
        pad="<|pad|>",
        bos="<|begin_of_sentence|>",
        eos="<|im_end|>",
    )  # fmt: skip
    model = Step3p7ForConditionalGeneration(
        Step3p7Config(
            vision_config={
                **{key: value for key, value in TOWER.items() if key != "intermediate_size"},
                "mlp_ratio": 2.0, "image_size": 2 * SIDE, "patch_size": PATCH, "max_position_embeddings": 64,
            },
            text_config={
                **TEXT, **token_ids(tokenizer), "head_dim": 8, "sliding_window": 12,
                "layer_types": ["full_attention", "sliding_attention", "full_attention", "sliding_attention"],
                "mlp_layer_types": ["dense", "dense", "sparse", "sparse"], "moe_intermediate_size": 32,
                "n_routed_experts": 4, "num_experts_per_tok": 2, "share_expert_dim": 32,
            },
            image_token_id=tokenizer.convert_tokens_to_ids("<im_patch>"),
        )
    )  # fmt: skip
    processor = Step3p7Processor(
        image_processor=Step3p7ImageProcessor(
            size={"height": 2 * SIDE, "width": 2 * SIDE},
            patch_size=SIDE,
            max_image_size=4 * SIDE,
            vision_patch_size=PATCH,
        ),
        tokenizer=tokenizer,
        chat_template=STEP,
    )
    return save(folder, model, processor)
