"""Unlisted types of many experts: dots3, Inkling, MiniMax M3, Mistral Large 4, Muse and Nemotron Omni."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    Dots3NoteConfig,
    Dots3NoteFeatureExtractor,
    Dots3NoteForConditionalGeneration,
    Dots3NoteProcessor,
    Inkling2Config,
    Inkling2ForConditionalGeneration,
    InklingConfig,
    InklingFeatureExtractor,
    InklingForConditionalGeneration,
    MiniMaxM3SparseForConditionalGeneration,
    MiniMaxM3VLConfig,
    MistralLarge4Config,
    MistralLarge4ForConditionalGeneration,
    MuseGlimmerConfig,
    MuseGlimmerForConditionalGeneration,
    MuseSparkConfig,
    MuseSparkFeatureExtractor,
    MuseSparkForConditionalGeneration,
    NemotronH_Omni_Reasoning_V3,
    NemotronH_Omni_Reasoning_V3_Config,
    ParakeetFeatureExtractor,
    PixtralImageProcessorPil,
    PixtralVisionConfig,
    Qwen2VLImageProcessorPil,
    RadioConfig,
)

from tests.conformance.builders.qwen import GRID, SIZE
from tests.conformance.parts import TEXT, TOWER, save, token_ids
from tests.conformance.unlisted.parts import (
    COMPRESSED,
    INDEX,
    PATCH,
    ROUTED,
    find_ids,
    make_chat_tokenizer,
    print_image_as,
)

FULL_HEADS = {**TEXT, "num_key_value_heads": 4}
WINDOWED = {
    "head_dim": 8,
    "sliding_window": 12,
    "layer_types": ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"],
}
# Inkling's own names for the heads of blocks with windows, and its relative positions.
INKLING = {
    **{name: TEXT[name] for name in ("hidden_size", "num_hidden_layers", "num_attention_heads")},
    "num_key_value_heads": 2,
    "head_dim": 8,
    "swa_num_attention_heads": 4,
    "swa_num_key_value_heads": 2,
    "swa_head_dim": 8,
    "sliding_window_size": 12,
    "d_rel": 4,
    "rel_extent": 64,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
}
MUSE = ["<|patch|>", "<|image_start|>", "<|image_end|>", "<|video|>", "<|vid_frame_separator|>", "<|vid_start|>",
        "<|vid_end|>"]  # fmt: skip
MUSE_TOWER = {
    **TOWER,
    "patch_size": PATCH,
    "pos_emb_height": 8,
    "pos_emb_width": 8,
    "max_position_embeddings": 64,
}


def build_dots3_note(folder: Path) -> Path:
    """Compressed keys, sparse attention, windows, and a tower of experts."""
    from transformers import Qwen2VLVideoProcessor

    tokenizer = make_chat_tokenizer(
        "<|imgpad|>", "<|video_pad|>", "<|audio_comp_pad|>", "<|img|>", "<|endofimg|>"
    )
    model = Dots3NoteForConditionalGeneration(
        Dots3NoteConfig(
            text_config={
                **FULL_HEADS, **token_ids(tokenizer), **COMPRESSED, **ROUTED, **INDEX,
                "shared_experts_intermediate_size": 32, "swa_num_attention_heads": 4, "swa_num_key_value_heads": 4,
                "swa_head_dim": 12, "sliding_window": 12,
                **{f"swa_{name}": size for name, size in COMPRESSED.items()},
            },
            vision_config={
                **TOWER, "patch_size": PATCH, "moe_intermediate_size": 32, "num_local_experts": 4,
                "num_experts_per_tok": 2, "adapter_in_dim": 32, "adapter_out_dim": 32,
                "mlp_layer_types": ["dense", "sparse"], "per_layer_config": {},
            },
            audio_config={
                "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
                "downsample_hidden_size": 8, "adapter_input_size": 32, "adapter_out_dim": 32,
            },
            **find_ids(
                tokenizer, image_token_id="<|imgpad|>", video_token_id="<|video_pad|>",
                audio_token_id="<|audio_comp_pad|>",
            ),
        )
    )  # fmt: skip
    processor = Dots3NoteProcessor(
        image_processor=Qwen2VLImageProcessorPil(size=SIZE, **{**GRID, "temporal_patch_size": 1}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=SIZE, **GRID),
        feature_extractor=Dots3NoteFeatureExtractor(),
        chat_template=print_image_as("<|img|><|imgpad|><|endofimg|>"),
    )
    return save(folder, model, processor)


def build_inkling_mm_model(folder: Path) -> Path:
    """Short convolutions, relative positions, and experts."""
    from transformers import InklingImageProcessor, InklingProcessor

    words = ("<|unused_200054|>", "<|unused_200053|>", "<|content_image|>", "<|content_audio_input|>")
    tokenizer = make_chat_tokenizer(*words)
    model = InklingForConditionalGeneration(
        InklingConfig(
            text_config={
                **INKLING, **token_ids(tokenizer), "intermediate_size": 64, "local_layer_ids": [0, 1, 2],
                "n_shared_experts": 1, "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            },
            audio_config={"n_mel_bins": 8, "mel_vocab_size": 16, "text_hidden_size": 32},
            vision_config={
                "text_hidden_size": 32, "patch_size": 40, "temporal_patch_size": 2, "hidden_size": 32,
                "num_hidden_layers": 2, "num_attention_heads": 4,
            },
            **find_ids(tokenizer, image_token_id=words[0], audio_token_id=words[1]),
        )
    )  # fmt: skip
    processor = InklingProcessor(
        feature_extractor=InklingFeatureExtractor(),
        image_processor=InklingImageProcessor(),
        tokenizer=tokenizer,
        chat_template=print_image_as(f"{words[2]}{words[0]}"),
    )
    return save(folder, model, processor)


def build_inkling2(folder: Path) -> Path:
    """As Inkling, with attention over earlier blocks' residuals, and bounded logits."""
    from transformers import Inkling2ImageProcessor, Inkling2Processor

    words = ("<|unused_200054|>", "<|content_image|>")
    tokenizer = make_chat_tokenizer(*words)
    model = Inkling2ForConditionalGeneration(
        Inkling2Config(
            text_config={
                **INKLING, **token_ids(tokenizer), "n_layers_per_attn_res_block": 2,
                "unpadded_vocab_size": len(tokenizer),
            },
            vision_config={
                "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 20, "mlp_ratio": 2.0,
                "spatial_merge_size": 2, "posemb_grid_size": 8, "projection_hidden_dim": 32, "text_hidden_size": 32,
            },
            **find_ids(tokenizer, image_token_id=words[0]),
        )
    )  # fmt: skip
    processor = Inkling2Processor(
        image_processor=Inkling2ImageProcessor(),
        tokenizer=tokenizer,
        chat_template=print_image_as(f"{words[1]}{words[0]}"),
    )
    return save(folder, model, processor)


def build_minimax_m3_vl(folder: Path) -> Path:
    """Sparse attention over blocks of tokens, and experts."""
    from transformers import MiniMaxM3VLImageProcessor, MiniMaxM3VLProcessor, MiniMaxM3VLVideoProcessor

    image, video = MiniMaxM3VLProcessor.IMAGE_TOKEN, MiniMaxM3VLProcessor.VIDEO_TOKEN
    tokenizer = make_chat_tokenizer(
        image, video, MiniMaxM3VLProcessor.VISION_START_TOKEN, MiniMaxM3VLProcessor.VISION_END_TOKEN
    )
    model = MiniMaxM3SparseForConditionalGeneration(
        MiniMaxM3VLConfig(
            vision_config={
                **TOWER, "image_size": 64, "patch_size": PATCH, "temporal_patch_size": 2, "spatial_merge_size": 2,
            },
            text_config={
                **TEXT, **token_ids(tokenizer), "head_dim": 8, "num_experts_per_tok": 2, "num_local_experts": 4,
                "dense_intermediate_size": 64, "shared_intermediate_size": 32, "rotary_dim": 8, "index_n_heads": 2,
                "index_head_dim": 8, "index_block_size": 8, "index_topk_blocks": 4,
                "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            },
            projector_hidden_size=32,
            **find_ids(tokenizer, image_token_index=image, video_token_index=video),
        )
    )  # fmt: skip
    processor = MiniMaxM3VLProcessor(
        image_processor=MiniMaxM3VLImageProcessor(size=SIZE, **GRID),
        tokenizer=tokenizer,
        video_processor=MiniMaxM3VLVideoProcessor(size=SIZE, **GRID),
        chat_template=print_image_as(image),
    )
    return save(folder, model, processor)


def build_mistral_large4(folder: Path) -> Path:
    """Pixtral's tower; compressed keys, sparse attention, experts, and bounded logits."""
    from transformers import PixtralProcessor

    side = 64
    tokenizer = make_chat_tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    compressed = {name: size for name, size in COMPRESSED.items() if name != "q_lora_rank"}
    model = MistralLarge4ForConditionalGeneration(
        MistralLarge4Config(
            vision_config=PixtralVisionConfig(image_size=side, patch_size=PATCH, **TOWER),
            text_config={**FULL_HEADS, **token_ids(tokenizer), **compressed, **ROUTED, **INDEX},
            **find_ids(tokenizer, image_token_index="[IMG]"),
        )
    )
    processor = PixtralProcessor(
        image_processor=PixtralImageProcessorPil(
            size={"longest_edge": side}, patch_size={"height": PATCH, "width": PATCH}
        ),
        tokenizer=tokenizer,
        patch_size=PATCH,
        spatial_merge_size=2,
        chat_template=print_image_as("[IMG]"),
    )
    return save(folder, model, processor)


def build_muse_glimmer(folder: Path) -> Path:
    """Windows, and logits that are scaled and then bounded."""
    from transformers import MuseGlimmerProcessor

    tokenizer = make_chat_tokenizer(*MUSE)
    model = MuseGlimmerForConditionalGeneration(
        MuseGlimmerConfig(
            vision_config=MUSE_TOWER,
            text_config={**TEXT, **token_ids(tokenizer), **WINDOWED},
            out_hidden_size=128,
            projector_hidden_size=32,
            **find_ids(tokenizer, image_token_id="<|patch|>", video_token_id="<|video|>"),
        )
    )
    return save(folder, model, MuseGlimmerProcessor(**_make_muse_parts(tokenizer)))


def build_muse_spark(folder: Path) -> Path:
    """As Muse Glimmer, with experts and sound."""
    from transformers import MuseSparkProcessor

    tokenizer = make_chat_tokenizer(*MUSE, "<|audio|>", "<|soft_audio_start|>", "<|soft_audio_end|>")
    model = MuseSparkForConditionalGeneration(
        MuseSparkConfig(
            vision_config=MUSE_TOWER,
            text_config={
                **TEXT, **token_ids(tokenizer), **WINDOWED, "moe_intermediate_size": 32, "num_local_experts": 4,
                "num_experts_per_tok": 2, "moe_hidden_size": 32,
                "mlp_layer_types": ["dense", "sparse", "sparse", "sparse"],
            },
            audio_config={
                "patch_sizes": [4, 2, 2, 2], "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1],
                "out_hidden_size": 32,
            },
            out_hidden_size=128,
            projector_hidden_size=32,
            **find_ids(
                tokenizer, image_token_id="<|patch|>", video_token_id="<|video|>", audio_token_id="<|audio|>"
            ),
        )
    )  # fmt: skip
    parts = {**_make_muse_parts(tokenizer), "feature_extractor": MuseSparkFeatureExtractor()}
    return save(folder, model, MuseSparkProcessor(**parts))


def build_nemotron_h_omni(folder: Path) -> Path:
    """Mamba, attention and experts, each a block."""
    from transformers import (
        NemotronH_Omni_Reasoning_V3ImageProcessor,
        NemotronH_Omni_Reasoning_V3Processor,
        NemotronH_Omni_Reasoning_V3VideoProcessor,
    )

    tokenizer = make_chat_tokenizer(
        "<image>", "<video>", "<so_embedding>", "<so_start>", "<so_end>", "<img>", "</img>"
    )
    model = NemotronH_Omni_Reasoning_V3(
        NemotronH_Omni_Reasoning_V3_Config(
            vision_config=RadioConfig(**TOWER, patch_size=PATCH, video_temporal_patch_size=2),
            text_config={
                "model_type": "nemotron_h", **TEXT, **token_ids(tokenizer), "head_dim": 8,
                "layers_block_type": ["mamba", "attention", "moe", "attention"], "mamba_num_heads": 4,
                "mamba_head_dim": 8, "ssm_state_size": 8, "n_groups": 2, "n_routed_experts": 4,
                "num_experts_per_tok": 2, "moe_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32,
            },
            vision_hidden_size=32,
            projector_hidden_size=32,
            force_image_size=64,
            **find_ids(
                tokenizer, image_token_id="<image>", video_token_id="<video>", audio_token_id="<so_embedding>"
            ),
        )
    )  # fmt: skip
    processor = NemotronH_Omni_Reasoning_V3Processor(
        image_processor=NemotronH_Omni_Reasoning_V3ImageProcessor(
            patch_size=PATCH, min_num_patches=16, max_num_patches=64
        ),
        video_processor=NemotronH_Omni_Reasoning_V3VideoProcessor(),
        tokenizer=tokenizer,
        feature_extractor=ParakeetFeatureExtractor(),
        chat_template=print_image_as("<image>"),
    )
    return save(folder, model, processor)


def _make_muse_parts(tokenizer: Any) -> Mapping[str, Any]:
    from transformers import MuseGlimmerImageProcessor, MuseGlimmerVideoProcessor

    return {
        "image_processor": MuseGlimmerImageProcessor(size=SIZE, **GRID),
        "tokenizer": tokenizer,
        "video_processor": MuseGlimmerVideoProcessor(size=SIZE, **GRID),
        "chat_template": print_image_as("<|patch|>"),
    }
