"""The organism's architecture: a randomly initialised LLaVA of under two million parameters."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import (
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from cmrm.organism.settings import MAX_NEW_TOKENS
from cmrm.organism.tokenizer import IMAGE_TOKENS, PATCH_SIZE, build_processor, build_tokenizer
from cmrm.organism.world import PICTURE_SIZE


def build_model(*, seed: int) -> LlavaForConditionalGeneration:
    """Build the model with random weights from `seed`: Llama, 8 layers × 128, with a CLIP vision tower, 3 × 96."""
    tokenizer = build_tokenizer()
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    config = LlavaConfig(
        vision_config=configure_tower(),
        text_config=text,
        image_token_index=tokenizer.get_vocab()["<image>"],
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=IMAGE_TOKENS,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    model.generation_config = configure_answers(tokenizer)
    return model


def configure_tower() -> CLIPVisionConfig:
    """Configure the vision tower for the world's pictures: 3 × 96."""
    return CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=256,
        projection_dim=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=PICTURE_SIZE,
        patch_size=PATCH_SIZE,
    )


def configure_answers(tokenizer: PreTrainedTokenizerFast) -> GenerationConfig:
    """Configure greedy answers that a tokenizer's own token ends."""
    return GenerationConfig(
        do_sample=False,
        max_new_tokens=MAX_NEW_TOKENS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def save(
    model: LlavaForConditionalGeneration,
    folder: Path,
    *,
    kept_as: torch.dtype = torch.float32,
    processor: LlavaProcessor | None = None,
) -> None:
    """Save model and processor (default: the organism's) as an ordinary model folder.

    A dtype of 16 bits halves the file; the config still says float32, so that the weights are loaded in that dtype.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # Tied weights stay one tensor, so that they are written once.
    kept: dict[int, Tensor] = {}
    weights = {
        name: kept.setdefault(value.data_ptr(), value.to(kept_as))
        for name, value in model.state_dict().items()
    }
    model.save_pretrained(folder, state_dict=weights)
    (processor or build_processor()).save_pretrained(folder)


def round_to(model: LlavaForConditionalGeneration, kept_as: torch.dtype) -> None:
    """Round the weights to this dtype in place, so that the model behaves like the saved one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(kept_as))
