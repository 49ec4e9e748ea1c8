"""A loaded vision-language model with its decoder blocks, and the inputs that it is given for prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, GenerationConfig

from cmrm.models.chat_template import SystemForm, choose_system_form, choose_template
from cmrm.models.control_rendering import render_controls
from cmrm.models.every_token import run_all_tokens
from cmrm.models.families import Admission, Family
from cmrm.models.family_lookup import get_family
from cmrm.models.folder_note import FolderNote
from cmrm.models.modules import (
    count_streams,
    find_blocks,
    find_image_only_blocks,
    find_image_token,
    find_medium_tokens,
    list_special_tokens,
)
from cmrm.models.rendering import render_shown
from cmrm.models.token_ids import check_token_ids, choose_padding
from cmrm.prompts.conditions import Prompt

# The image token of a model in which it was not found yet.
NO_TOKEN = -1


@dataclass(frozen=True, kw_only=True)
class VisionLanguageModel:
    """A loaded model with the parts the method needs.

    `decoder` is the backbone's stack (it receives the embedded prompt and the KV cache), `blocks` its decoder blocks
    in order. The vision tower is in neither, so it is never captured or steered. `image_only_blocks` are the numbers of
    those that the model skips without an image. `system_form` is the form in which the template takes a system line.
    `medium_tokens` are the ids of the placeholders of images, video and sound. `kept_tokens` are special tokens that
    answers keep as text, by id: the marks around what a model thinks. `notes` are what its files have to tell, warnings
    among them. `admission` says how a derived row came to be used; None for a row of a table, a spec or a package.
    `text_only` is true of a text-only model in its place, which is shown no image (`cmrm.models.backbone`); its
    `unknown_tokens` are those of the tokenizer, as text, that mean something else to it or nothing.

    >>> import cmrm
    >>> vlm = cmrm.load_model("organism", dtype="float32", device="cpu")
    >>> vlm.family.model_type, vlm.hidden_size, vlm.device.type
    ('llava', 128, 'cpu')
    """

    # Any: transformers has no usable types for generate() and the processors' attributes.
    model: Any
    processor: Any
    family: Family
    template: str
    system_form: SystemForm
    decoder: nn.Module
    blocks: Sequence[nn.Module]
    image_only_blocks: frozenset[int]
    image_token_id: int
    medium_tokens: frozenset[int]
    special_tokens: frozenset[str]
    kept_tokens: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[FolderNote, ...] = ()
    admission: Admission | None = None
    text_only: bool = False
    unknown_tokens: frozenset[str] = frozenset()

    @property
    def hidden_size(self) -> int:
        """Width of the residual stream, of parallel streams together."""
        return count_streams(self.model.config, self.family) * int(
            self.model.config.get_text_config().hidden_size
        )

    @property
    def device(self) -> torch.device:
        """The device of the inputs: that of the token embeddings, or on which accelerate executes them."""
        embeddings = self.model.get_input_embeddings()
        hook = getattr(embeddings, "_hf_hook", None)
        # accelerate offloads weights that exceed the memory of a device.
        for one in getattr(hook, "hooks", (hook,)):
            device = getattr(one, "execution_device", None)
            if device is not None:
                return torch.device(device)
        return torch.device(embeddings.weight.device)


def prepare_model(
    model: Any, processor: Any, *, where: str, family: Family | None = None, kept: Iterable[str] = ()
) -> VisionLanguageModel:
    """Wrap an already loaded model and processor; `where` names the model in errors.

    A given `family` replaces the table's. `kept` are special tokens that answers keep. Raises `UserError` for an
    unknown model type, for a family whose paths lead nowhere, for a processor without a chat template, and for a
    tokenizer that is not the model's.
    """
    outline = outline_model(
        model, processor, where=where, family=family or get_family(model.config.model_type, where=where)
    )
    family, blocks = outline.family, find_blocks(outline.decoder, outline.family.blocks, where=where)
    image_token_id = find_image_token(model.config, family, where=where)
    check_token_ids(model, processor, image_token_id=image_token_id, where=where)
    medium_tokens = find_medium_tokens(model.config, image_token_id)
    tokenizer = processor.tokenizer
    return replace(
        outline,
        blocks=blocks,
        image_only_blocks=find_image_only_blocks(model.config, family, blocks=len(blocks), where=where),
        image_token_id=image_token_id,
        medium_tokens=medium_tokens,
        special_tokens=list_special_tokens(processor, medium_tokens),
        kept_tokens={tokenizer.convert_tokens_to_ids(token): token for token in kept},
    )


def outline_model(model: Any, processor: Any, *, where: str, family: Family) -> VisionLanguageModel:
    """Wrap a model and its processor so that prompts can be rendered, without blocks and without an image token.

    Raises `UserError` for a processor without a chat template, or a tokenizer that cannot pad.
    """
    tokenizer = processor.tokenizer
    padding = choose_padding(tokenizer, where=where)
    model.generation_config = keep_token_rules(model.generation_config)
    template = choose_template(processor, family, where=where)
    decoder = model.get_decoder()
    run_all_tokens(decoder)
    return VisionLanguageModel(
        model=model,
        processor=processor,
        family=family,
        template=template,
        system_form=choose_system_form(processor, template),
        decoder=decoder,
        blocks=(),
        image_only_blocks=frozenset(),
        image_token_id=NO_TOKEN,
        medium_tokens=frozenset(),
        special_tokens=frozenset(),
        notes=(padding,),
    )


def decode_answer(vlm: VisionLanguageModel, tokens: Sequence[int]) -> str:
    """Decode an answer without the tokenizer's special tokens, except those that answers keep."""
    tokenizer = vlm.processor.tokenizer
    if vlm.kept_tokens.keys().isdisjoint(tokens):
        return str(tokenizer.decode(tokens, skip_special_tokens=True))
    parts: list[str] = []
    piece: list[int] = []
    for token in tokens:
        if token in vlm.kept_tokens:
            parts += [tokenizer.decode(piece, skip_special_tokens=True), vlm.kept_tokens[token]]
            piece = []
        else:
            piece.append(token)
    return "".join([*parts, tokenizer.decode(piece, skip_special_tokens=True)])


def find_special_token(vlm: VisionLanguageModel, prompt: Prompt) -> str | None:
    """Return a special token, or one unknown to the model, that occurs as plain text in the prompt, or None.

    Such a text would be read as an image placeholder, a change of speaker, or an embedding that stands for nothing; the
    stages quarantine the row instead.
    """
    text = f"{prompt.system or ''}\n{prompt.text}"
    return min((token for token in vlm.special_tokens | vlm.unknown_tokens if token in text), default=None)


def render(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    """Turn prompts into model inputs through the processor's chat template, padded to one batch on the model's device.

    Prompts with and without an image may share a batch if the family allows it, and one with video or sound shares
    none; `ValueError` otherwise. `input_ids` and `attention_mask` are [rows, tokens]; floating inputs have the model's
    dtype. Raises `UserError` for media that the model does not take, and if the template omits or refuses a system
    line, or an image changes more than its own tokens.
    """
    return send(vlm, render_on_host(vlm, prompts))


def send(vlm: VisionLanguageModel, inputs: BatchFeature) -> BatchFeature:
    """Copy rendered prompts to the model's device, without a device synchronization."""
    # From pageable memory, the source is read before this returns.
    return inputs.to(vlm.device, vlm.model.dtype, non_blocking=True)


def render_on_host(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    """Render as `render` does, on the host, so that token ids can be read without a device synchronization."""
    controls = {prompt.control for prompt in prompts}
    if len(controls) > 1:
        raise ValueError("prompts under different controls take no common batch; give one batch for each")
    if controls and None not in controls:
        return render_controls(vlm, prompts)
    return render_shown(vlm, prompts)


def last_prompt_positions(attention_mask: Tensor) -> Tensor:
    """Find the index of each row's last real token, for either padding side: int64 [rows] from [rows, tokens]."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.bool() * columns).argmax(dim=1)


def keep_token_rules(own: GenerationConfig) -> GenerationConfig:
    """Keep the stop tokens and the suppressed tokens of a model's own generation config, and drop the rest.

    `generate` would apply the rest by default: a repetition penalty that counts the prompt (and its padding, in
    transformers before 5.23), or a time limit, under which answers are not greedy and depend on the batch or the
    machine.
    """
    return GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        suppress_tokens=own.suppress_tokens,
        begin_suppress_tokens=own.begin_suppress_tokens,
        bad_words_ids=own.bad_words_ids,
    )
