"""Tiny Gemma 3n, Gemma 4, and the Gemma 4 that has no tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    Gemma3nAudioFeatureExtractor,
    Gemma3nConfig,
    Gemma3nForConditionalGeneration,
    Gemma3nProcessor,
    Gemma3nVisionConfig,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Gemma4Processor,
    PreTrainedModel,
    SiglipImageProcessorPil,
)
from transformers.modeling_outputs import BaseModelOutput

from tests.conformance.builders.gemma import GEMMA3
from tests.conformance.parts import TEXT, TOWER, make_tokenizer, save, token_ids

SIDE, PATCH, POOL = 32, 4, 2

GEMMA4 = (
    "{{ bos_token }}{% for message in messages %}{{ '<|turn>' + message['role'] + '\n' }}"
    "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<|image|>' }}"
    "{% elif item['type'] == 'audio' %}{{ '<|audio|>' }}{% elif item['type'] == 'video' %}{{ '<|video|>' }}"
    "{% elif item['type'] == 'text' %}{{ item['text'] | trim }}{% endif %}{% endfor %}{{ '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)


class PatchTower(PreTrainedModel):
    """One convolution in place of MobileNet, which transformers takes from timm."""

    config_class = Gemma3nVisionConfig
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: Gemma3nVisionConfig) -> None:
        super().__init__(config)
        self.patches = nn.Conv2d(3, config.hidden_size, kernel_size=SIDE // 4, stride=SIDE // 4)
        self.places = nn.Parameter(torch.zeros(config.hidden_size, 4, 4))
        self.post_init()

    def forward(self, pixel_values: Tensor, **_options: Any) -> BaseModelOutput:
        """[images, hidden, 4, 4] of square images."""
        return BaseModelOutput(last_hidden_state=(self.patches(pixel_values) + self.places).tanh())


def build_gemma3n(folder: Path) -> Path:
    """Gemma 3n: four residual streams, inputs to each block of its own, and keys that later blocks share."""
    AutoModel.register(Gemma3nVisionConfig, PatchTower, exist_ok=True)
    words = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    media = ["<start_of_image>", "<end_of_image>", "<image_soft_token>", "<start_of_audio>", "<end_of_audio>",
             "<audio_soft_token>"]  # fmt: skip
    tokenizer = make_tokenizer(
        words,
        pad="<pad>",
        bos="<bos>",
        eos="<end_of_turn>",
    )
    text = len(tokenizer)
    # Behind those of text: the model embeds them from tables of its own.
    tokenizer.add_special_tokens({"additional_special_tokens": media})
    names = ["boi_token", "eoi_token", "image_token", "boa_token", "eoa_token", "audio_token"]
    tokenizer._set_model_specific_special_tokens(dict(zip(names, media, strict=True)))
    ids = {
        f"{name}_id": tokenizer.convert_tokens_to_ids(word) for name, word in zip(names, media, strict=True)
    }
    config = Gemma3nConfig(
        text_config={
            **TEXT, **token_ids(tokenizer), "head_dim": 8, "sliding_window": 12,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
            "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": text,
            "laurel_rank": 8, "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        },
        vision_config={"hidden_size": 32, "vocab_size": 3, "vocab_offset": text},
        audio_config={
            "hidden_size": 32, "vocab_size": 3, "vocab_offset": text + 3, "conf_num_attention_heads": 4,
            "conf_num_hidden_layers": 1, "sscp_conv_channel_size": [4, 4], "input_feat_size": 16,
        },
        vision_soft_tokens_per_image=16,
        tie_word_embeddings=False,
        **ids,
    )  # fmt: skip
    processor = Gemma3nProcessor(
        feature_extractor=Gemma3nAudioFeatureExtractor(feature_size=16),
        image_processor=SiglipImageProcessorPil(
            size={"height": SIDE, "width": SIDE},
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
            do_normalize=False,
        ),
        tokenizer=tokenizer,
        image_seq_length=16,
        chat_template=GEMMA3.replace("<start_of_image>", "<image_soft_token>"),
    )
    # A trained model does not answer with them.
    return save(folder, Gemma3nForConditionalGeneration(config), processor, unsaid=list(ids.values()))


def build_gemma4(folder: Path) -> Path:
    """Gemma 4: inputs to each block of its own, keys and values that later blocks share, windows, and a sound tower."""
    from transformers import Gemma4AudioFeatureExtractor, Gemma4ImageProcessorPil, Gemma4VideoProcessor

    tokenizer = _make_tokenizer()
    processor = Gemma4Processor(
        feature_extractor=Gemma4AudioFeatureExtractor(),
        image_processor=Gemma4ImageProcessorPil(
            patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=POOL
        ),
        tokenizer=tokenizer,
        video_processor=Gemma4VideoProcessor(patch_size=PATCH, max_soft_tokens=70, pooling_kernel_size=POOL),
        chat_template=GEMMA4,
    )
    model = Gemma4ForConditionalGeneration(
        Gemma4Config(
            vision_config={
                **TOWER, "num_key_value_heads": 4, "head_dim": 8, "patch_size": PATCH, "pooling_kernel_size": POOL,
                "position_embedding_size": 256,
            },
            text_config={
                **_text(tokenizer), "num_kv_shared_layers": 2, "hidden_size_per_layer_input": 4,
                "vocab_size_per_layer_input": len(tokenizer),
            },
            # It reads as many mel bins as there are channels.
            audio_config={
                "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "output_proj_dims": 32,
                "subsampling_conv_channels": [128, 2], "conv_kernel_size": 3,
            },
            **_ids(tokenizer),
        )
    )  # fmt: skip
    # They begin as ones, which are left as they are.
    torch.nn.init.normal_(model.model.vision_tower.patch_embedder.position_embedding_table)
    return save(folder, model, processor)


def build_gemma4_unified(folder: Path) -> Path:
    """Gemma 4 without a tower: patches are projected into the decoder, whose image tokens see each other."""
    from transformers import (
        Gemma4UnifiedAudioFeatureExtractor,
        Gemma4UnifiedConfig,
        Gemma4UnifiedForConditionalGeneration,
        Gemma4UnifiedImageProcessor,
        Gemma4UnifiedProcessor,
        Gemma4UnifiedVideoProcessor,
    )

    tokenizer = _make_tokenizer()
    settings = {"patch_size": PATCH, "max_soft_tokens": 70, "pooling_kernel_size": POOL}
    processor = Gemma4UnifiedProcessor(
        feature_extractor=Gemma4UnifiedAudioFeatureExtractor(),
        image_processor=Gemma4UnifiedImageProcessor(**settings),
        tokenizer=tokenizer,
        video_processor=Gemma4UnifiedVideoProcessor(**settings),
        chat_template=GEMMA4,
    )
    model = Gemma4UnifiedForConditionalGeneration(
        Gemma4UnifiedConfig(
            vision_config={
                "patch_size": PATCH, "pooling_kernel_size": POOL, "mm_embed_dim": 32, "mm_posemb_size": 256,
                "output_proj_dims": 32,
            },
            text_config={**_text(tokenizer), "num_kv_shared_layers": 0},
            audio_config=None,
            **_ids(tokenizer),
        )
    )  # fmt: skip
    return save(folder, model, processor)


def _make_tokenizer():
    return make_tokenizer(
        ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|image>", "<image|>", "<|image|>", "<|audio>", "<audio|>",
         "<|audio|>", "<|video|>"],
        pad="<pad>",
        bos="<bos>",
        eos="<turn|>",
        named={
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "image_token": "<|image|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
            "audio_token": "<|audio|>",
            "video_token": "<|video|>",
        },
    )  # fmt: skip


def _text(tokenizer) -> dict[str, Any]:
    return {
        **TEXT, **token_ids(tokenizer), "head_dim": 8, "global_head_dim": 16, "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        "final_logit_softcapping": 30.0,
    }  # fmt: skip


def _ids(tokenizer) -> dict[str, int]:
    names = {
        "boi_token_id": "<|image>",
        "eoi_token_id": "<image|>",
        "image_token_id": "<|image|>",
        "video_token_id": "<|video|>",
        "boa_token_id": "<|audio>",
        "audio_token_id": "<|audio|>",
    }
    return {name: tokenizer.convert_tokens_to_ids(word) for name, word in names.items()}
