"""A loaded vision-language model with its decoder blocks, and the rendering of prompts to model inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature, GenerationConfig

from cmrm.errors import UserError
from cmrm.models.chat_template import (
    SystemForm,
    Turns,
    check_prompt_pair,
    check_text_prompt,
    choose_system_form,
    choose_template,
    make_turns,
)
from cmrm.models.control_prompts import FILLER, TokenRow, explain_no_controls, make_row
from cmrm.models.every_token import run_all_tokens
from cmrm.models.families import Admission, Family, get_family
from cmrm.models.folder_note import FolderNote
from cmrm.models.image_tokens import is_medium
from cmrm.models.joined_rows import join_rows
from cmrm.models.media import (
    explain_unprinted,
    explain_untaken,
    find_rate,
    list_forms,
    list_kinds,
    list_video_arguments,
    make_parts,
    name_part,
)
from cmrm.models.modules import (
    count_streams,
    find_blocks,
    find_image_only_blocks,
    find_image_token,
    find_medium_tokens,
    list_special_tokens,
)
from cmrm.models.multimodal_positions import locate_tokens
from cmrm.models.token_ids import check_token_ids, choose_padding
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.media import MediumKind, goes_alone


class UnshowableError(ValueError):
    """A model cannot be shown a prompt as it is; the message says why, and what to change."""


# The image token of a model in which it was not found yet.
NO_TOKEN = -1

# What a language model is given of a rendered prompt.
TEXT_INPUTS = ("input_ids", "attention_mask")


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
        return _render_controls(vlm, prompts)
    return _render_shown(vlm, prompts)


def _render_shown(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    if len(prompts) > 1 and not vlm.family.batches:
        raise ValueError(f"{vlm.family.model_type} is read one prompt at a time; give batches of one")
    with_image = {bool(prompt.shown) for prompt in prompts}
    if len(with_image) > 1 and not vlm.family.mixed_batches:
        raise ValueError(
            f"{vlm.family.model_type} takes no batch of prompts with and without an image; give two batches"
        )
    orders = {list_kinds(prompt) for prompt in prompts}
    if len(prompts) > 1 and any(map(goes_alone, orders)):
        raise ValueError("a prompt with video or sound is rendered by itself; give a batch for each")
    for order in orders:
        if reason := explain_unshowable(vlm, order):
            raise UserError(f"media: {reason}.")
    _check_template(vlm, prompts)
    form = vlm.family.text_only_form
    if form is not None and with_image == {False}:
        inputs = _tokenize_alone(vlm, prompts, form)
    elif vlm.family.tiles_together or with_image == {False}:
        inputs = _process(vlm, prompts)
    else:
        inputs = join_rows(
            [_process(vlm, [prompt]) for prompt in prompts], vlm.processor.tokenizer, **_padding(vlm)
        )
    if vlm.text_only:
        # Some processors say which tokens are of an image, which a language model does not take.
        return BatchFeature({name: inputs[name] for name in TEXT_INPUTS})
    # Some processors also make training labels.
    inputs.pop("labels", None)
    if any("video" in order for order in orders):
        _refuse_overlap(vlm, inputs)
    return inputs


def _refuse_overlap(vlm: VisionLanguageModel, inputs: BatchFeature) -> None:
    """Raise `UnshowableError` where text behind a video has a position that a frame before it has as well.

    transformers 5.23 counts on from the sides of a frame, whatever its time: a model would answer from its KV cache
    at other positions than without one.
    """
    located = locate_tokens(vlm, inputs)
    if located is None:
        return
    reached = located.amax(dim=0).cummax(dim=1).values[:, :-1]
    text = ~is_medium(vlm, inputs["input_ids"])[:, 1:]
    if bool((text & (located[0, :, 1:] <= reached)).any()):
        raise UnshowableError(
            f"its video lasts so long that {vlm.family.model_type} gives the text behind it positions of its frames; "
            "give fewer frames, more of them a second, or larger ones"
        )


def explain_unshowable(vlm: VisionLanguageModel, kinds: Sequence[MediumKind]) -> str | None:
    """Explain why the model cannot be shown media of these kinds in one prompt; None if it can, as one image."""
    if not list_forms(kinds):
        return None
    who = vlm.family.model_type
    return explain_untaken(vlm.family, kinds) or explain_unprinted(
        vlm.processor, vlm.template, kinds, form=vlm.system_form, system=vlm.family.system, who=who
    )


def _process(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    made: BatchFeature = fill_template(
        vlm,
        prompts,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={**_padding(vlm), **list_video_arguments(prompts)},
    )
    return made


def _check_template(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> None:
    """Raise `UserError` if the template leaves a system line out, or a medium changes more than its own tokens."""
    if vlm.text_only and any(prompt.shown for prompt in prompts):
        raise ValueError(f"{vlm.family.model_type} is text-only; give prompts without an image")
    # A prompt of text alone is compared with one image.
    compared = {(prompt.system, list_kinds(prompt) or ("image",)) for prompt in prompts}
    for system, kinds in compared:
        alone = _make_turns(vlm, "?", [], system)
        if vlm.text_only:
            check_text_prompt(vlm.processor, vlm.template, alone, system=system, who=vlm.family.model_type)
            continue
        pair = [_make_turns(vlm, "?", [name_part(kind) for kind in kinds], system), alone]
        check_prompt_pair(vlm.processor, vlm.template, pair, system=system, who=vlm.family.model_type)


def _render_controls(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    """Render prompts under one control: tokens of text, at positions of their own, `position_ids` [rows, tokens]."""
    if reason := explain_no_controls(vlm.family, vlm.model.config.get_text_config()):
        raise UserError(f"condition {prompts[0].control}: {reason}.")
    shown = _render_shown(vlm, [replace(prompt, control=None) for prompt in prompts])
    alone = _render_shown(vlm, [replace(prompt, control=None, image=None, media=()) for prompt in prompts])
    located = locate_tokens(vlm, shown)
    places = [None] * len(prompts) if located is None else _list_real(located[0], shown)
    filler = vlm.processor.tokenizer(FILLER, add_special_tokens=False)["input_ids"]
    rows = [
        make_row(
            prompt.control or "gap",
            with_image=with_image,
            without=without,
            medium_tokens=vlm.medium_tokens,
            places=own,
            filler=filler,
        )
        for prompt, with_image, without, own in zip(
            prompts,
            _list_real(shown["input_ids"], shown),
            _list_real(alone["input_ids"], alone),
            places,
            strict=True,
        )
    ]
    return _pad_rows(vlm, rows, alone, shown)


def _list_real(values: Tensor, inputs: BatchFeature) -> list[list[int]]:
    """List one value a token, [rows, tokens], without those of padding."""
    mask = inputs["attention_mask"].bool()
    return [row[real].tolist() for row, real in zip(values, mask, strict=True)]


def _pad_rows(
    vlm: VisionLanguageModel, rows: Sequence[TokenRow], alone: BatchFeature, shown: BatchFeature
) -> BatchFeature:
    """Make a left-padded batch of text; other tensors that a text prompt has, such as types, are those of its tokens.

    A mark of the image has the type that it has beside an image; a token that neither prompt has is text, 0.
    """
    longest = max(len(row.ids) for row in rows)

    def pad(values: Sequence[Sequence[int]], empty: int) -> Tensor:
        return torch.tensor([[*[empty] * (longest - len(one)), *one] for one in values])

    kinds = {}
    for name, value in alone.items():
        if isinstance(value, Tensor) and value.shape == alone["attention_mask"].shape:
            known = _map_tokens(shown, name) | _map_tokens(alone, name)
            kinds[name] = pad([[known.get(one, 0) for one in row.ids] for row in rows], 0).to(value.dtype)
    first = vlm.family.first_position
    return BatchFeature(
        {
            **kinds,
            "input_ids": pad([row.ids for row in rows], vlm.processor.tokenizer.pad_token_id),
            "attention_mask": pad([[1] * len(row.ids) for row in rows], 0),
            "position_ids": pad([[first + one for one in row.positions] for row in rows], first),
        }
    )


def _map_tokens(inputs: BatchFeature, name: str) -> dict[int, int]:
    """What a tensor of tokens holds for each token id."""
    return dict(zip(inputs["input_ids"].flatten().tolist(), inputs[name].flatten().tolist(), strict=True))


def fill_template(vlm: VisionLanguageModel, prompts: Sequence[Prompt], **arguments: Any) -> Any:
    """Apply the processor's chat template to prompts; the result is text, or what `arguments` request."""
    rate = find_rate(vlm.processor)
    return vlm.processor.apply_chat_template(
        [
            _make_turns(vlm, prompt.text, make_parts(prompt.shown, rate=rate), prompt.system)
            for prompt in prompts
        ],
        chat_template=vlm.template,
        add_generation_prompt=True,
        **arguments,
    )


def last_prompt_positions(attention_mask: Tensor) -> Tensor:
    """Find the index of each row's last real token, for either padding side: int64 [rows] from [rows, tokens]."""
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    return (attention_mask.bool() * columns).argmax(dim=1)


def position_ids(attention_mask: Tensor, *, first: int = 0) -> Tensor:
    """Count positions over real tokens only, so that padding does not shift them: int64 [rows, tokens]."""
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0) + first


def keep_token_rules(own: GenerationConfig) -> GenerationConfig:
    """Keep the stop tokens and the suppressed tokens of a model's own generation config, and drop the rest.

    `generate` would apply the rest by default: a repetition penalty that counts the prompt and its padding, or a time
    limit, under which answers are not greedy and depend on the batch or the machine.
    """
    return GenerationConfig(
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id,
        pad_token_id=own.pad_token_id,
        suppress_tokens=own.suppress_tokens,
        begin_suppress_tokens=own.begin_suppress_tokens,
        bad_words_ids=own.bad_words_ids,
    )


def _tokenize_alone(vlm: VisionLanguageModel, prompts: Sequence[Prompt], form: str) -> BatchFeature:
    tokenizer = vlm.processor.tokenizer
    texts = [
        form.format(bos=tokenizer.bos_token, prompt=text)
        for text in fill_template(vlm, prompts, tokenize=False)
    ]
    # Such a model needs token type ids to know where its prompt ends.
    encoded = tokenizer(
        texts, add_special_tokens=False, return_token_type_ids=True, return_tensors="pt", **_padding(vlm)
    )
    return BatchFeature(dict(encoded))


def _padding(vlm: VisionLanguageModel) -> dict[str, Any]:
    # Explicit, because some processors have a padding side of their own.
    return {"padding": True, "padding_side": vlm.processor.tokenizer.padding_side}


def _make_turns(
    vlm: VisionLanguageModel, text: str, parts: Sequence[dict[str, Any]], system: str | None
) -> Turns:
    line = vlm.family.system if system is None else system
    return make_turns(text=text, parts=parts, system=line, form=vlm.system_form)
