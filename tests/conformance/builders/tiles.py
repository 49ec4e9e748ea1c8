"""Tiny Ovis2 and LFM2-VL: tiles of the image behind towers of their own."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Lfm2Config,
    Lfm2VlConfig,
    Lfm2VlForConditionalGeneration,
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessorPil,
    Ovis2Processor,
    Qwen2Config,
    Siglip2VisionConfig,
)

from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH = 16, 8
SQUARE = {"height": SIDE, "width": SIDE}
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TURNS = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% for content in message['content'] %}"
    "{% if content['type'] == 'image' %}<image>\n{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_ovis2(folder: Path) -> Path:
    """Ovis2: image tokens are mixtures of a visual vocabulary, and its marks have embeddings of that."""
    marks = ["<IMG_START>", "<IMG_GRID>", "<IMG_COL>", "<IMG_ROW>", "<IMG_END>"]
    tokenizer = make_tokenizer(
        [*WORDS, "<image>", "<IMG_ATOM>", *marks], pad="<|endoftext|>", eos="<|im_end|>"
    )
    model = Ovis2ForConditionalGeneration(
        Ovis2Config(
            vision_config={**TOWER, "image_size": SIDE, "patch_size": PATCH, "vocab_size": 32},
            text_config=Qwen2Config(**TEXT, **token_ids(tokenizer)),
            image_token_id=tokenizer.convert_tokens_to_ids("<IMG_ATOM>"),
            visual_indicator_token_ids=tokenizer.convert_tokens_to_ids(marks),
            hidden_size=TEXT["hidden_size"],
            vocab_size=len(tokenizer),
            tie_word_embeddings=False,
        )
    )
    processor = Ovis2Processor(
        image_processor=Ovis2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=(SIDE // PATCH) ** 2,
        chat_template=TURNS,
    )
    return save(folder, model, processor)


def build_lfm2_vl(folder: Path) -> Path:
    """LFM2-VL: SigLIP 2 on images of any shape, and blocks of which half are convolutions."""
    from transformers import Lfm2VlImageProcessor, Lfm2VlProcessor

    tokenizer = make_tokenizer(
        [*WORDS, "<image>", "<|image_start|>", "<|image_end|>", "<|img_thumbnail|>",
         *(f"<|img_row_{row}_col_{column}|>" for row in range(1, 5) for column in range(1, 5))],
        pad="<|endoftext|>",
        eos="<|im_end|>",
    )  # fmt: skip
    kinds = ["conv", "full_attention", "conv", "full_attention"]
    model = Lfm2VlForConditionalGeneration(
        Lfm2VlConfig(
            vision_config=Siglip2VisionConfig(**TOWER, patch_size=PATCH, num_patches=16, vision_use_head=False),
            text_config=Lfm2Config(
                **TEXT, **token_ids(tokenizer), layer_types=kinds, block_auto_adjust_ff_dim=False,
                tie_word_embeddings=False,
            ),
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
            projector_hidden_size=64,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    processor = Lfm2VlProcessor(
        image_processor=Lfm2VlImageProcessor(
            size={"height": 2 * SIDE, "width": 2 * SIDE}, tile_size=2 * SIDE, encoder_patch_size=PATCH,
            min_image_tokens=2, max_image_tokens=64, max_tiles=4,
        ),
        tokenizer=tokenizer,
        chat_template=TURNS,
    )  # fmt: skip
    return save(folder, model, processor)
