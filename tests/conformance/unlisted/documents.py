"""Unlisted types that read documents: DeepSeek-OCR 2, Granite Docling, HunyuanOCR, MiniCPM, Qianfan-OCR, …"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers
from transformers import (
    DeepseekOcr2Config,
    DeepseekOcr2ForConditionalGeneration,
    DeepseekOcr2Processor,
    GotOcr2ImageProcessorPil,
    GraniteDoclingConfig,
    GraniteDoclingForConditionalGeneration,
    GraniteDoclingProcessor,
    HunYuanVLConfig,
    HunYuanVLForConditionalGeneration,
    HunYuanVLProcessor,
    QianfanOCRConfig,
    QianfanOCRForConditionalGeneration,
    QianfanOCRProcessor,
    Qwen3Config,
    UnlimitedOcrConfig,
    UnlimitedOcrForConditionalGeneration,
)

from tests.conformance.builders.others import INTERNVL
from tests.conformance.builders.qwen import LINEAR, MROPE, SIZE
from tests.conformance.parts import TEXT, TOWER, save, token_ids
from tests.conformance.unlisted.parts import (
    MERGE,
    PATCH,
    ROUTED,
    find_ids,
    make_chat_tokenizer,
    print_image_as,
)

SIDE = 32
SQUARE = {"height": SIDE, "width": SIDE}
# A first tower of SAM's kind.
SAM = {
    "hidden_size": 16,
    "output_channels": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": PATCH,
    "mlp_dim": 32,
    "global_attn_indexes": [1],
    "downsample_channels": [16, 32],
}
DENSE_FIRST = {
    **TEXT,
    **ROUTED,
    "num_key_value_heads": 4,
    "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
}


def build_deepseek_ocr2(folder: Path) -> Path:
    """Two towers, of which the second is a language model; its image is 144 queries and no fewer."""
    from transformers import DeepseekOcr2ImageProcessorPil

    side = 384
    tokenizer = make_chat_tokenizer("<image>", bos="<|endoftext|>")
    model = DeepseekOcr2ForConditionalGeneration(
        DeepseekOcr2Config(
            vision_config={
                "sam_config": {**SAM, "image_size": side, "window_size": 6},
                "encoder_config": {**TOWER, "num_key_value_heads": 2, "vocab_size": 8},
            },
            text_config={**DENSE_FIRST, **token_ids(tokenizer)},
            **find_ids(tokenizer, image_token_id="<image>"),
        )
    )
    processor = DeepseekOcr2Processor(
        image_processor=DeepseekOcr2ImageProcessorPil(
            size={"height": side, "width": side}, tile_size=side, max_patches=2
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        downsample_ratio=4,
        chat_template=print_image_as("<image>"),
    )
    return save(folder, model, processor)


def build_unlimited_ocr(folder: Path) -> Path:
    """Two towers, and blocks with windows that keep the prompt in sight."""
    from transformers import UnlimitedOcrImageProcessor, UnlimitedOcrProcessor

    side = 64
    tokenizer = make_chat_tokenizer("<image>", bos="<|endoftext|>")
    model = UnlimitedOcrForConditionalGeneration(
        UnlimitedOcrConfig(
            vision_config={
                "sam_config": {
                    **SAM, "hidden_size": 32, "num_attention_heads": 4, "image_size": side, "window_size": 4,
                },
                "encoder_config": {**TOWER, "image_size": side, "patch_size": 32},
            },
            text_config={**DENSE_FIRST, **token_ids(tokenizer), "sliding_window": 12},
            **find_ids(tokenizer, image_token_id="<image>"),
        )
    )  # fmt: skip
    processor = UnlimitedOcrProcessor(
        image_processor=UnlimitedOcrImageProcessor(
            size={"height": side, "width": side}, tile_size=side, max_patches=4
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        downsample_ratio=4,
        chat_template=print_image_as("<image>"),
    )
    return save(folder, model, processor)


def build_granite_docling(folder: Path) -> Path:
    """Tiles of the image, and Granite, whose logits are divided."""
    from transformers import GraniteDoclingImageProcessorPil

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 4) for column in range(1, 4)]
    tokenizer = make_chat_tokenizer(
        "<image>", "<fake_token_around_image>", "<global-img>", *tiles, named={"image_token": "<image>"}
    )
    model = GraniteDoclingForConditionalGeneration(
        GraniteDoclingConfig(
            vision_config={
                **TOWER, "image_size": SIDE, "patch_size": PATCH, "out_hidden_size": 32, "scale_factor": 2,
                "deepstack_visual_indexes": [0], "use_fine_route": False,
            },
            text_config={**TEXT, **token_ids(tokenizer)},
            tie_word_embeddings=False,
            pad_token_id=tokenizer.pad_token_id,
            **find_ids(tokenizer, image_token_id="<image>"),
        )
    )  # fmt: skip
    processor = GraniteDoclingProcessor(
        image_processor=GraniteDoclingImageProcessorPil(size=SQUARE, max_patches=4),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=print_image_as("<image>"),
    )
    return save(folder, model, processor)


def build_hunyuan_vl(folder: Path) -> Path:
    """Positions of four numbers a token, of which one counts images."""
    from transformers import HunYuanVLImageProcessorPil

    marks = {"image_token": "<imgpad>", "image_start_token": "<img>", "image_end_token": "</img>"}
    tokenizer = make_chat_tokenizer(*marks.values(), named=marks)
    model = HunYuanVLForConditionalGeneration(
        HunYuanVLConfig(
            vision_config={
                **TOWER, "patch_size": PATCH, "spatial_merge_size": MERGE, "out_hidden_size": 32,
                "text_hidden_size": 32, "max_image_size": 64, "min_image_size": 16, "img_max_token_num": 64,
            },
            text_config={
                **TEXT, **token_ids(tokenizer), "head_dim": 8,
                "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1, 1]},
            },
            tie_word_embeddings=False,
            **find_ids(tokenizer, **{f"{name}_id": word for name, word in marks.items()}),
        )
    )  # fmt: skip
    processor = HunYuanVLProcessor(
        image_processor=HunYuanVLImageProcessorPil(
            size=SIZE, patch_size=PATCH, merge_size=MERGE, temporal_patch_size=1
        ),
        tokenizer=tokenizer,
        chat_template=print_image_as("<img><imgpad></img>"),
    )
    return save(folder, model, processor)


def build_minicpmv4_6(folder: Path) -> Path:
    """A tower that merges windows, and Qwen3.5 with counted positions."""
    from transformers import MiniCPMV4_6ImageProcessorPil, MiniCPMV4_6VideoProcessor

    return _build_minicpm(folder, "MiniCPMV4_6", MiniCPMV4_6ImageProcessorPil, MiniCPMV4_6VideoProcessor)


def build_minicpmv4_7(folder: Path) -> Path:
    """As 4.6, with positions of three numbers a token."""
    from transformers import MiniCPMV4_6ImageProcessorPil, MiniCPMV4_6VideoProcessor

    names = {
        "image_start_id": "<image>",
        "image_end_id": "</image>",
        "slice_start_id": "<slice>",
        "slice_end_id": "</slice>",
        "newline_id": "Ċ",
    }
    return _build_minicpm(
        folder, "MiniCPMV4_7", MiniCPMV4_6ImageProcessorPil, MiniCPMV4_6VideoProcessor, **names
    )


def build_minicpm_ocr(folder: Path) -> Path:
    """As MiniCPM-V 4.6."""
    from transformers import MiniCPMOcrImageProcessor, MiniCPMOcrVideoProcessor

    return _build_minicpm(folder, "MiniCPMOcr", MiniCPMOcrImageProcessor, MiniCPMOcrVideoProcessor)


def _build_minicpm(folder: Path, name: str, images: Any, videos: Any, **names: str) -> Path:
    marks = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    tokenizer = make_chat_tokenizer(*marks.values(), named=marks)
    side = 64
    text = {
        "model_type": "qwen3_5_text", **TEXT, **token_ids(tokenizer), **LINEAR, "head_dim": 8,
        "rope_parameters": {**MROPE, "mrope_interleaved": True},
    }  # fmt: skip
    model = getattr(transformers, f"{name}ForConditionalGeneration")(
        getattr(transformers, f"{name}Config")(
            vision_config={**TOWER, "image_size": side, "patch_size": PATCH, "insert_layer_id": 0},
            insert_layer_id=0,
            text_config=text,
            tie_word_embeddings=False,
            **find_ids(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>", **names),
        )
    )
    sizes = {"scale_resolution": side, "patch_size": PATCH}
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=images(**sizes),
        video_processor=videos(**sizes),
        tokenizer=tokenizer,
        chat_template=print_image_as("<|image_pad|>"),
    )
    return save(folder, model, processor)


def build_qianfan_ocr(folder: Path) -> Path:
    """InternVL's tiles and tower, and Qwen3."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_chat_tokenizer(*named.values(), "<image>", named=named)
    model = QianfanOCRForConditionalGeneration(
        QianfanOCRConfig(
            vision_config={**TOWER, "image_size": [SIDE, SIDE], "patch_size": [PATCH, PATCH]},
            text_config=Qwen3Config(**TEXT, **token_ids(tokenizer), head_dim=8),
            image_seq_length=4,
            **find_ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
        )
    )
    processor = QianfanOCRProcessor(
        image_processor=GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=True, max_patches=4),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=INTERNVL.replace("<IMG_CONTEXT>", "<image>"),
    )
    return save(folder, model, processor)
