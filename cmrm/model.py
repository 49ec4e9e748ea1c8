"""A vision-language model made ready: its decoder blocks found, its prompts rendered."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.conditions import Prompt
from cmrm.errors import UserError
from cmrm.families import Family, get_family

# What templates print as today's date: a prompt must be the same on every day. It is the one that Llama's own
# templates fall back on.
TODAY = date(2024, 7, 26)


@dataclass(frozen=True, kw_only=True)
class VisionLanguageModel:
    """A loaded model with the parts the method needs.

    `decoder` is the backbone's stack (it receives the embedded prompt and the key-value cache), `blocks` its decoder
    blocks in order. The vision tower is in neither, so it is never read or steered. `image_only_blocks` are the
    numbers of those that the model skips when there is no image.
    """

    # Any: transformers gives generate() and the processors' attributes no types that a checker can follow.
    model: Any
    processor: Any
    family: Family
    template: str
    decoder: nn.Module
    blocks: Sequence[nn.Module]
    image_only_blocks: frozenset[int]
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


def prepare_model(
    model: Any, processor: Any, *, where: str, family: Family | None = None
) -> VisionLanguageModel:
    """Wrap an already loaded model and processor; `where` names the model in errors.

    A `family` that is given goes before the table's. Raises `UserError` for an unknown model type, for a family whose
    paths lead nowhere, and for a processor without a chat template.
    """
    family = family or get_family(model.config.model_type, where=where)
    decoder = model.get_decoder()
    tokenizer = processor.tokenizer
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    image_token_id = int(_read_config(model.config, family.image_token, field="image_token", where=where))
    skipped = family.image_only_blocks
    return VisionLanguageModel(
        model=model,
        processor=processor,
        family=family,
        template=_choose_template(processor, family, where=where),
        decoder=decoder,
        blocks=_find_blocks(decoder, family.blocks, where=where),
        image_only_blocks=frozenset(
            _read_config(model.config, skipped, field="image_only_blocks", where=where) if skipped else ()
        ),
        image_token_id=image_token_id,
        special_tokens=_list_special_tokens(processor, image_token_id),
    )


def _choose_template(processor: Any, family: Family, *, where: str) -> str:
    own = getattr(processor, "chat_template", None)
    if isinstance(own, dict):
        own = own.get("default")
    template = own if own is not None else family.template
    if template is None:
        raise UserError(
            f"model.id: the processor of {where!r} has no chat template, so its prompts cannot be made as in training. "
            "Add chat_template.jinja to the folder."
        )
    return str(template)


def _find_blocks(decoder: nn.Module, path: str, *, where: str) -> tuple[nn.Module, ...]:
    found: Any = decoder
    for name in path.split("."):
        children = dict(found.named_children()) if isinstance(found, nn.Module) else {}
        if name not in children:
            there = ", ".join(children) or "nothing"
            raise UserError(
                f"model.family.blocks: {path!r} leads nowhere in {where!r}: {type(found).__name__} has no {name!r}. "
                f"What is there: {there}."
            )
        found = children[name]
    if not isinstance(found, nn.ModuleList) or len(found) == 0:
        raise UserError(
            f"model.family.blocks: {path!r} of {where!r} is one {type(found).__name__}, not a list of decoder blocks. "
            f"What is in it: {', '.join(name for name, _ in found.named_children()) or 'nothing'}."
        )
    return tuple(found)


def _read_config(config: Any, path: str, *, field: str, where: str) -> Any:
    found = config
    for name in path.split("."):
        value = getattr(found, name, None)
        if value is None:
            there = ", ".join(sorted(key for key in found.to_dict() if "token" in key or "config" in key))
            raise UserError(
                f"model.family.{field}: {path!r} leads nowhere in the config of {where!r}: {type(found).__name__} has "
                f"no {name!r}. Fields that might be meant: {there or 'none'}."
            )
        found = value
    return found


def _list_special_tokens(processor: Any, image_token_id: int) -> frozenset[str]:
    tokenizer = processor.tokenizer
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    # Some processors replace a text that is no token of the tokenizer's.
    replaced = (getattr(processor, name, None) for name in ("image_token", "video_token"))
    tokens: Iterable[Any] = (
        *tokenizer.all_special_tokens,
        *added,
        tokenizer.convert_ids_to_tokens(image_token_id),
        *replaced,
    )
    return frozenset(token for token in tokens if isinstance(token, str) and token)


def find_special_token(vlm: VisionLanguageModel, prompt: Prompt) -> str | None:
    """Return a special token that stands as plain text in the prompt, or None.

    Such a text would be read as an image placeholder or a change of speaker; the stages set the row aside instead.
    """
    text = f"{prompt.system or ''}\n{prompt.text}"
    return next((token for token in sorted(vlm.special_tokens) if token in text), None)


def render(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    """Turn prompts into model inputs through the processor's chat template, padded to one batch on the model's device.

    Prompts with and without an image may share a batch where the family allows it; `ValueError` where it does not.
    `input_ids` and `attention_mask` are [rows, tokens]; floating inputs have the model's dtype.
    Raises `UserError` when the template leaves out or refuses a system line.
    """
    with_image = {prompt.image is not None for prompt in prompts}
    if len(with_image) > 1 and not vlm.family.mixed_batches:
        raise ValueError(
            f"{vlm.family.model_type} takes no batch of prompts with and without an image; give them apart"
        )
    for system in sorted({prompt.system for prompt in prompts if prompt.system is not None}):
        _check_system_line(vlm, system)
    form = vlm.family.text_only_form
    if form is not None and with_image == {False}:
        inputs = _tokenize_alone(vlm, prompts, form)
    else:
        inputs = _apply_template(
            vlm,
            prompts,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs=_padding(vlm),
        )
    # Some processors also make targets for training.
    inputs.pop("labels", None)
    return inputs.to(vlm.device, vlm.model.dtype)


def last_prompt_positions(attention_mask: Tensor) -> Tensor:
    """Index of each row's last real token, for either padding side: int64 [rows] from a mask [rows, tokens]."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.bool() * columns).argmax(dim=1)


def position_ids(attention_mask: Tensor, *, first: int = 0) -> Tensor:
    """Positions counted over real tokens only, so that padding does not shift them: int64 [rows, tokens]."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0) + first


def _apply_template(vlm: VisionLanguageModel, prompts: Sequence[Prompt], **arguments: Any) -> Any:
    # Given to templates that ask for the date alone: the processor would take it for an option of its own.
    today = {"strftime_now": TODAY.strftime} if "strftime_now" in vlm.template else {}
    return vlm.processor.apply_chat_template(
        [_conversation(prompt) for prompt in prompts],
        chat_template=vlm.template,
        add_generation_prompt=True,
        **today,
        **arguments,
    )


def _tokenize_alone(vlm: VisionLanguageModel, prompts: Sequence[Prompt], form: str) -> BatchFeature:
    tokenizer = vlm.processor.tokenizer
    texts = [
        form.format(bos=tokenizer.bos_token, prompt=text)
        for text in _apply_template(vlm, prompts, tokenize=False)
    ]
    # Token types are what tells such a model how far its prompt goes.
    encoded = tokenizer(
        texts, add_special_tokens=False, return_token_type_ids=True, return_tensors="pt", **_padding(vlm)
    )
    return BatchFeature(dict(encoded))


def _padding(vlm: VisionLanguageModel) -> dict[str, Any]:
    # Said here because some processors bring a side of their own.
    return {"padding": True, "padding_side": vlm.processor.tokenizer.padding_side}


def _check_system_line(vlm: VisionLanguageModel, system: str) -> None:
    """Render one prompt with the line: a template that leaves it out would show the model another prompt than asked."""
    try:
        (text,) = _apply_template(vlm, [Prompt(text="?", system=system)], tokenize=False)
        reason = "leaves it out"
    except (TemplateError, TypeError) as error:
        text, reason = "", f"refuses it ({error})"
    # Templates trim what they print.
    if system.strip() not in text:
        raise UserError(
            f"model.system: the chat template of this {vlm.family.model_type} model {reason}, so the model would never "
            "see it. Leave model.system out, or give the model's folder a chat template that prints it."
        )


def _conversation(prompt: Prompt) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = [{"type": "text", "text": prompt.text}]
    if prompt.image is not None:
        content.insert(0, {"type": "image", "image": prompt.image})
    turns = [{"role": "user", "content": content}]
    if prompt.system is not None:
        turns.insert(0, {"role": "system", "content": [{"type": "text", "text": prompt.system}]})
    return turns
