"""Random text-only models beside the random LLaVA, with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoTokenizer, LlamaForCausalLM

# As a text model's own templates do, it takes messages as strings.
TEXT_TEMPLATE = (
    "{% for message in messages %}{{ '[' + message.role + '] ' + message.content }}{% endfor %}"
    "{% if add_generation_prompt %} [assistant]{% endif %}"
)


def save_text_model(folder: Path, model: Any, llava: Path, *, template: str | None = None) -> Path:
    """Save a text-only model with the tokenizer of a LLaVA folder."""
    tokenizer = AutoTokenizer.from_pretrained(llava)
    tokenizer.chat_template = template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def take_language_model(llava: Path, *, moved: float = 0.0) -> Any:
    """The language model inside a LLaVA folder as a Llama of its own, its weights moved at random."""
    whole = AutoModelForImageTextToText.from_pretrained(llava)
    text = LlamaForCausalLM(whole.config.text_config)
    text.model.load_state_dict(whole.model.language_model.state_dict())
    text.lm_head.load_state_dict(whole.lm_head.state_dict())
    text.generation_config = whole.generation_config
    torch.manual_seed(3)
    with torch.no_grad():
        for weights in text.parameters():
            weights.add_(moved * torch.randn_like(weights))
    return text
