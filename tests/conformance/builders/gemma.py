"""Tiny PaliGemma 2 and Gemma 3."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessorPil,
    Gemma3Processor,
    Gemma3TextConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 32, 8
SQUARE = {"height": SIDE, "width": SIDE}
GEMMA3 = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
    "{%- else -%}{%- set first_user_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for message in loop_messages -%}"
    "{{ '<start_of_turn>' + message['role'] + '\n' + (first_user_prefix if loop.first else '') }}"
    "{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
    "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}{{ '<end_of_turn>\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
)


def build_paligemma(folder: Path) -> Path:
    """PaliGemma 2: SigLIP and Gemma 2, and no chat template, as it is published."""
    tokenizer = make_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<image>"],
        pad="<pad>",
        bos="<bos>",
        eos="<eos>",
        named={"image_token": "<image>"},
    )
    image_processor = SiglipImageProcessorPil(size=SQUARE)
    image_processor.image_seq_length = (SIDE // PATCH) ** 2
    # The processor adds the tokens of places and segments, so it goes first.
    processor = PaliGemmaProcessor(image_processor=image_processor, tokenizer=tokenizer)
    ids = token_ids(tokenizer)
    model = PaliGemmaForConditionalGeneration(
        PaliGemmaConfig(
            vision_config=SiglipVisionConfig(
                image_size=SIDE, patch_size=PATCH, vision_use_head=False, **TOWER
            ),
            text_config=Gemma2Config(**TEXT, **ids, head_dim=8, query_pre_attn_scalar=8, sliding_window=4096),
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
            vocab_size=ids["vocab_size"],
            projection_dim=TEXT["hidden_size"],
            hidden_size=TEXT["hidden_size"],
        )
    )
    return save(folder, model, processor)


def build_gemma3(folder: Path) -> Path:
    """Gemma 3: SigLIP pooled to 4 tokens, and a decoder that looks both ways within an image."""
    tokenizer = make_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>", "<end_of_image>",
         "<image_soft_token>"],
        pad="<pad>",
        bos="<bos>",
        eos="<end_of_turn>",
        named={"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
    )  # fmt: skip
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            vision_config=SiglipVisionConfig(
                image_size=SIDE, patch_size=PATCH, vision_use_head=False, **TOWER
            ),
            text_config=Gemma3TextConfig(
                **TEXT,
                **token_ids(tokenizer),
                head_dim=8,
                query_pre_attn_scalar=8,
                sliding_window_pattern=2,
                sliding_window=12,
            ),
            mm_tokens_per_image=4,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
        )
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessorPil(size=SQUARE),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=GEMMA3,
    )
    return save(folder, model, processor)
