"""A tiny LoRA made with peft for a tiny model, and the same weights merged into it."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

TARGETS = r".*language_model.*\.(q_proj|down_proj)"


def make_lora(
    model: Path,
    folder: Path,
    *,
    seed: int = 0,
    targets: str = TARGETS,
    merged: Path | None = None,
    rows: int | None = None,
    **options: Any,
) -> Path:
    """Save a random LoRA for the model in a folder; and the model with it merged in, where `merged` names a place.

    `rows` are those of a resized vocabulary; `options` are further ones of peft.
    """
    base = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    if rows is not None:
        base.resize_token_embeddings(rows)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # peft asks transformers for a property that it calls by another name by now.
        warnings.simplefilter("ignore", FutureWarning)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False, **options)
        adapted = get_peft_model(base, config)
        if options:
            # What is trained beside the matrices starts as the model has it.
            with torch.no_grad():
                for weight in adapted.parameters():
                    weight.add_(0.05 * torch.randn_like(weight) * weight.requires_grad)
        adapted.save_pretrained(folder)
    if merged is not None:
        adapted.merge_and_unload().save_pretrained(merged)
        AutoProcessor.from_pretrained(model).save_pretrained(merged)
    return folder
