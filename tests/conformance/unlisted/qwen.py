"""Unlisted types with a processor like Qwen's: Cosmos 3, Command A Vision's successor, LFM3-VL, Qwen4 and Omni, …"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import transformers
from transformers import (
    CohereCompassConfig,
    CohereCompassForConditionalGeneration,
    CohereCompassProcessor,
    Cosmos3EdgeConfig,
    Cosmos3EdgeForConditionalGeneration,
    Cosmos3EdgeProcessor,
    Cosmos3OmniConfig,
    Cosmos3OmniForConditionalGeneration,
    Glm46VForConditionalGeneration,
    Glm46VProcessor,
    GlmgaConfig,
    HyperCLOVAXConfig,
    HyperCLOVAXVisionV2Config,
    HyperCLOVAXVisionV2ForConditionalGeneration,
    HyperCLOVAXVisionV2Processor,
    Lfm3Config,
    Lfm3VlConfig,
    Lfm3VlForConditionalGeneration,
    Lfm3VlProcessor,
    Qwen2VLImageProcessorPil,
    Qwen4ExpConfig,
    Qwen4ExpForConditionalGeneration,
    WhisperFeatureExtractor,
)

from tests.conformance.builders import glm, qwen
from tests.conformance.builders.qwen import DEEPSTACK, GRID, LINEAR, MROPE, QWEN3, SIZE, UNIT, VISION
from tests.conformance.parts import EXPERTS, TEXT, TOWER, save, token_ids
from tests.conformance.unlisted.parts import MERGE, PATCH, find_ids, make_chat_tokenizer, print_image_as

INTERLEAVED = {**MROPE, "mrope_interleaved": True}
TOWER_OF_QWEN = {**VISION, "hidden_size": 32, "out_hidden_size": 32}
WINDOWS = {"window_size": 2 * UNIT, "fullatt_block_indexes": [1]}


def build_cohere_compass(folder: Path) -> Path:
    """Blocks with windows and positions, and one without either; logits are scaled."""
    from transformers import CohereCompassImageProcessorPil, CohereCompassVideoProcessor

    marks = ("<|vision_start|>", "<|vision_end|>", "<|IMAGE_PAD|>", "<|VIDEO_PAD|>")
    tokenizer = make_chat_tokenizer(*marks)
    kinds = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]
    model = CohereCompassForConditionalGeneration(
        CohereCompassConfig(
            vision_config={**TOWER_OF_QWEN, "num_position_embeddings": 16, **DEEPSTACK},
            text_config={
                **TEXT, **token_ids(tokenizer), "head_dim": 8, "logit_scale": 0.25, "sliding_window": 12,
                "layer_types": kinds,
                "rope_parameters": {"sliding_attention": INTERLEAVED, "full_attention": None},
            },
            **find_ids(
                tokenizer, vision_start_token_id=marks[0], vision_end_token_id=marks[1], image_token_id=marks[2],
                video_token_id=marks[3],
            ),
        )
    )  # fmt: skip
    processor = CohereCompassProcessor(
        image_processor=CohereCompassImageProcessorPil(size=SIZE, **GRID),
        tokenizer=tokenizer,
        video_processor=CohereCompassVideoProcessor(size=SIZE, **GRID),
        chat_template=print_image_as(f"{marks[0]}{marks[2]}{marks[1]}"),
    )
    return save(folder, model, processor)


def build_cosmos3_edge(folder: Path) -> Path:
    """Its processor as it is without settings of its own."""
    from transformers import Cosmos3EdgeImageProcessorPil, Cosmos3EdgeVideoProcessor

    tokenizer = qwen._qwen_tokenizer()
    model = Cosmos3EdgeForConditionalGeneration(
        Cosmos3EdgeConfig(
            vision_config={**TOWER, "patch_size": PATCH, "num_patches": 64, "spatial_merge_size": MERGE},
            text_config={**TEXT, **token_ids(tokenizer), "head_dim": 8, "rope_parameters": INTERLEAVED},
            projector_hidden_size=32,
            **qwen._qwen_ids(tokenizer),
        )
    )
    grid = {"size": SIZE, "patch_size": PATCH, "merge_size": MERGE}
    processor = Cosmos3EdgeProcessor(
        image_processor=Cosmos3EdgeImageProcessorPil(**grid),
        tokenizer=tokenizer,
        video_processor=Cosmos3EdgeVideoProcessor(**grid),
        chat_template=QWEN3,
    )
    return save(folder, model, processor)


def build_cosmos3_omni(folder: Path) -> Path:
    """Qwen3-VL under another name."""
    return qwen._build_qwen3(
        folder, Cosmos3OmniForConditionalGeneration, Cosmos3OmniConfig, tower=DEEPSTACK, text={}
    )


def build_glmga(folder: Path) -> Path:
    """GLM-4.6V with an image processor of its own."""
    from transformers import GlmgaImageProcessorPil

    return glm._build(
        folder, Glm46VForConditionalGeneration, GlmgaConfig, parts=(Glm46VProcessor, GlmgaImageProcessorPil)
    )


def build_hyperclovax_vision_v2(folder: Path) -> Path:
    """The tower of Qwen2.5-VL, and HyperCLOVA X, whose logits are scaled."""
    tokenizer = qwen._qwen_tokenizer()
    model = HyperCLOVAXVisionV2ForConditionalGeneration(
        HyperCLOVAXVisionV2Config(
            vision_config={
                "model_type": "qwen2_5_vl_vision",
                **TOWER_OF_QWEN,
                **WINDOWS,
                "tokens_per_second": 1,
            },
            text_config=HyperCLOVAXConfig(**TEXT, **token_ids(tokenizer), logits_scaling=0.125),
            tie_word_embeddings=False,
            **find_ids(tokenizer, image_token_id="<|image_pad|>", video_token_id="<|video_pad|>"),
        )
    )
    return save(
        folder, model, HyperCLOVAXVisionV2Processor(**qwen._qwen_parts(tokenizer), chat_template=QWEN3)
    )


def build_lfm3_vl(folder: Path) -> Path:
    """Convolutions among its blocks, and blocks with windows."""
    from transformers import Qwen3VLVideoProcessor

    tokenizer = qwen._qwen_tokenizer()
    model = Lfm3VlForConditionalGeneration(
        Lfm3VlConfig(
            vision_config={
                **TOWER, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "patch_size": PATCH,
                "spatial_merge_size": MERGE, "temporal_patch_size": 2,
            },
            text_config=Lfm3Config(
                **{**TEXT, "num_hidden_layers": 5}, **token_ids(tokenizer), head_dim=8, sliding_window=12
            ),
            projector_hidden_size=32,
            tie_word_embeddings=False,
            **qwen._qwen_ids(tokenizer),
        )
    )  # fmt: skip
    processor = Lfm3VlProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=SIZE, **GRID),
        tokenizer=tokenizer,
        video_processor=Qwen3VLVideoProcessor(size=SIZE, **GRID),
        chat_template=QWEN3,
    )
    return save(folder, model, processor)


def build_qwen4_exp(folder: Path) -> Path:
    """Linear attention, sparse attention, experts, and two residual streams side by side."""
    return qwen._build_qwen3(
        folder,
        Qwen4ExpForConditionalGeneration,
        Qwen4ExpConfig,
        tower={},
        text={
            **LINEAR, **EXPERTS, "layer_types": ["linear_attention"] * 3 + ["indexed_attention"],
            "shared_expert_intermediate_size": 32, "hc_count": 2, "hc_lowrank": 8, "indexer_n_heads": 2,
            "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64, "indexer_compress_ratio": 4,
        },
    )  # fmt: skip


def build_qwen2_5_omni_thinker(folder: Path) -> Path:
    """The part of Qwen2.5-Omni that writes."""
    names = {
        "audio_token_index": "<|AUDIO|>",
        "image_token_index": "<|IMAGE|>",
        "video_token_index": "<|VIDEO|>",
    }
    return _build_thinker(
        folder, "Qwen2_5Omni", names, text={"rope_parameters": MROPE}, tower=WINDOWS, audio={}
    )


def build_qwen3_omni_moe_thinker(folder: Path) -> Path:
    """The part of Qwen3-Omni that writes, of experts."""
    return _build_thinker(
        folder,
        "Qwen3OmniMoe",
        {"audio_token_id": "<|AUDIO|>", "image_token_id": "<|IMAGE|>", "video_token_id": "<|VIDEO|>"},
        text={**EXPERTS, "head_dim": 8, "rope_parameters": INTERLEAVED},
        tower={"num_position_embeddings": 16, **DEEPSTACK},
        audio={"downsample_hidden_size": 8},
    )


def _build_thinker(
    folder: Path,
    name: str,
    names: Mapping[str, str],
    *,
    text: Mapping[str, Any],
    tower: Mapping[str, Any],
    audio: Mapping[str, Any],
) -> Path:
    from transformers import Qwen2VLVideoProcessor

    marks = {
        "vision_bos_token": "<|vision_bos|>",
        "vision_eos_token": "<|vision_eos|>",
        "image_token": "<|IMAGE|>",
        "video_token": "<|VIDEO|>",
        "audio_token": "<|AUDIO|>",
        "audio_bos_token": "<|audio_bos|>",
        "audio_eos_token": "<|audio_eos|>",
    }
    tokenizer = make_chat_tokenizer(*marks.values(), named=marks)
    model = getattr(transformers, f"{name}ThinkerForConditionalGeneration")(
        getattr(transformers, f"{name}ThinkerConfig")(
            audio_config={
                "num_mel_bins": 16, "encoder_layers": 1, "encoder_attention_heads": 4, "encoder_ffn_dim": 32,
                "d_model": 32, "max_source_positions": 64, "output_dim": 32, "n_window": 10, **audio,
            },
            vision_config={**TOWER_OF_QWEN, **tower},
            text_config={**TEXT, **token_ids(tokenizer), **text},
            **find_ids(
                tokenizer, **names, vision_start_token_id="<|vision_bos|>", audio_start_token_id="<|audio_bos|>",
                audio_end_token_id="<|audio_eos|>",
            ),
        )
    )  # fmt: skip
    processor = getattr(transformers, f"{name}Processor")(
        image_processor=Qwen2VLImageProcessorPil(size=SIZE, **GRID),
        video_processor=Qwen2VLVideoProcessor(size=SIZE, **GRID),
        feature_extractor=WhisperFeatureExtractor(feature_size=16),
        tokenizer=tokenizer,
        chat_template=print_image_as("<|vision_bos|><|IMAGE|><|vision_eos|>"),
    )
    return save(folder, model, processor)
