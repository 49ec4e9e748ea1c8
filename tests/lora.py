"""A tiny LoRA made with peft for a tiny model, and the same weights merged into it."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor

TARGETS = r".*language_model.*\.(q_proj|down_proj)"


def make_lora(
    model: Path, folder: Path, *, seed: int = 0, targets: str = TARGETS, merged: Path | None = None
) -> Path:
    """Save a random LoRA for the model in a folder; and the model with it merged in, where `merged` names a place."""
    base = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # peft asks transformers for a property that it calls by another name by now.
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(
            base, LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
        )
        adapted.save_pretrained(folder)
    if merged is not None:
        adapted.merge_and_unload().save_pretrained(merged)
        AutoProcessor.from_pretrained(model).save_pretrained(merged)
    return folder
