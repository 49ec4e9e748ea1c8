"""A vision-language model made ready: its decoder blocks found, its prompts rendered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.errors import UserError
from cmrm.families import get_family


@dataclass(frozen=True, kw_only=True)
class VisionLanguageModel:
    """A loaded model with the parts the method needs.

    `decoder` is the backbone's stack (it receives the embedded prompt and the key-value cache), `blocks` its decoder
    blocks in order. The vision tower is in neither, so it is never read or steered.
    """

    # Any: transformers gives generate() and the processors' attributes no types that a checker can follow.
    model: Any
    processor: Any
    decoder: nn.Module
    blocks: Sequence[nn.Module]
    image_token_id: int
    special_tokens: frozenset[str]

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream."""
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def device(self) -> torch.device:
        """Where prompts go."""
        return torch.device(self.model.device)


def prepare_model(model: Any, processor: Any, *, where: str) -> VisionLanguageModel:
    """Wrap an already loaded model and processor; `where` names the model in errors."""
    if getattr(processor, "chat_template", None) is None:
        raise UserError(
            f"model.id: the processor of {where!r} has no chat template, so its prompts cannot be made as in training. "
            "Add chat_template.jinja to the folder."
        )
    family = get_family(model.config.model_type, where=where)
    decoder = model.get_decoder()
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return VisionLanguageModel(
        model=model,
        processor=processor,
        decoder=decoder,
        blocks=tuple(attrgetter(family.blocks)(decoder)),
        image_token_id=int(getattr(model.config, family.image_token)),
        special_tokens=frozenset(tokenizer.all_special_tokens) | {processor.image_token},
    )


def find_special_token(vlm: VisionLanguageModel, prompt: Prompt) -> str | None:
    """Return a special token that stands as plain text in the prompt, or None.

    Such a text would be read as an image placeholder or a change of speaker; the stages set the row aside instead.
    """
    text = f"{prompt.system or ''}\n{prompt.text}"
    return next((token for token in sorted(vlm.special_tokens) if token in text), None)


def render(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    """Turn prompts into model inputs through the processor's chat template, padded to one batch on the model's device.

    Prompts with and without an image may share a batch. `input_ids` and `attention_mask` are [rows, tokens].
    """
    inputs: BatchFeature = vlm.processor.apply_chat_template(
        [_conversation(prompt) for prompt in prompts],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )
    inputs = inputs.to(vlm.device)
    if "pixel_values" in inputs:
        inputs["pixel_values"] = inputs["pixel_values"].to(vlm.model.dtype)
    return inputs


def last_prompt_positions(attention_mask: Tensor) -> Tensor:
    """Index of each row's last real token, for either padding side: int64 [rows] from a mask [rows, tokens]."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.bool() * columns).argmax(dim=1)


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions counted over real tokens only, so that padding does not shift them: int64 [rows, tokens]."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def _conversation(prompt: Prompt) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt.text}]
    if prompt.image is not None:
        content.insert(0, {"type": "image", "image": prompt.image})
    turns = [{"role": "user", "content": content}]
    if prompt.system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
    return turns
