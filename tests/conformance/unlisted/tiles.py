"""Granite 4 Vision and Molmo 2: tiles of the image whose features come from several layers of the tower."""

from __future__ import annotations

from pathlib import Path

from transformers import (
    Granite4VisionConfig,
    Granite4VisionForConditionalGeneration,
    Granite4VisionProcessor,
    Granite4VisionTextConfig,
    LlavaNextImageProcessorPil,
    Molmo2Config,
    Molmo2ForConditionalGeneration,
    Molmo2Processor,
    SiglipVisionConfig,
)

from tests.conformance.builders.llava import LLAVA
from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids
from tests.conformance.unlisted.parts import PATCH, find_ids, make_chat_tokenizer, print_image_as

SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
GRID = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def build_granite4_vision(folder: Path) -> Path:
    """Features of the image are added before several blocks; Granite scales its logits."""
    tokenizer = make_tokenizer(["<pad>", "<s>", "</s>", "<image>"], pad="<pad>", bos="<s>", eos="</s>")
    model = Granite4VisionForConditionalGeneration(
        Granite4VisionConfig(
            # Its Q-Former has a head for each 64.
            vision_config=SiglipVisionConfig(
                image_size=SIDE, patch_size=PATCH, vision_use_head=False, **{**TOWER, "hidden_size": 64}
            ),
            text_config=Granite4VisionTextConfig(
                **TEXT, **token_ids(tokenizer), logits_scaling=8.0, embedding_multiplier=12.0, residual_multiplier=0.22
            ),
            qformer_config={
                "model_type": "blip_2_qformer", "num_hidden_layers": 1, "intermediate_size": 64,
                "cross_attention_frequency": 1, "use_qformer_text_input": False, "vocab_size": 8,
            },
            image_grid_pinpoints=GRID,
            downsample_rate="1/2",
            deepstack_layer_map=[[-1, 0]],
            spatial_target_layers=[1, 2],
            vision_feature_select_strategy="full",
            **find_ids(tokenizer, image_token_index="<image>"),
        )
    )  # fmt: skip
    processor = Granite4VisionProcessor(
        image_processor=LlavaNextImageProcessorPil(
            size={"shortest_edge": SIDE}, crop_size=SQUARE, image_grid_pinpoints=GRID
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        downsample_rate="1/2",
        chat_template=LLAVA,
    )
    return save(folder, model, processor)


def build_molmo2(folder: Path) -> Path:
    """No field of its config is called an image token."""
    from transformers import Molmo2ImageProcessor, Molmo2VideoProcessor

    tokenizer = make_chat_tokenizer(
        "<|image|>", "<|video|>", "<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>",
        "<im_end>", "<frame_end>", "<im_low>",
    )  # fmt: skip
    heads = {"num_key_value_heads": 4, "head_dim": 8}
    model = Molmo2ForConditionalGeneration(
        Molmo2Config(
            vision_config={
                **TOWER, **heads, "image_size": [SIDE, SIDE], "patch_size": PATCH, "num_position_embeddings": 16,
            },
            adapter_config={
                **heads, "vision_feature_layer": [-1, -2], "hidden_size": 32, "num_attention_heads": 4,
                "intermediate_size": 64, "text_hidden_size": 32,
            },
            text_config={**TEXT, "head_dim": 8, "vocab_size": len(tokenizer), "additional_vocab_size": 8},
            **find_ids(
                tokenizer, image_start_token_id="<im_start>", low_res_image_start_token_id="<low_res_im_start>",
                image_end_token_id="<im_end>", image_patch_id="<im_patch>", frame_start_token_id="<frame_start>",
                frame_end_token_id="<frame_end>",
            ),
        )
    )  # fmt: skip
    # For `save`, which asks for it; it is not saved.
    model.config.image_token_id = model.config.image_patch_id
    processor = Molmo2Processor(
        image_processor=Molmo2ImageProcessor(
            size=SQUARE, patch_size=PATCH, max_crops=2, overlap_margins=[1, 1]
        ),
        video_processor=Molmo2VideoProcessor(size=SQUARE, patch_size=PATCH),
        tokenizer=tokenizer,
        chat_template=print_image_as("<|image|>"),
    )
    return save(folder, model, processor)
