"""Render prompts with and without media through a processor's chat template, on the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import BatchFeature

from cmrm.errors import UserError
from cmrm.models.chat_template import Turns, check_prompt_pair, check_text_prompt, make_turns
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
from cmrm.models.multimodal_positions import locate_tokens
from cmrm.prompts.media import MediumKind, goes_alone

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prompts.conditions import Prompt

# What a language model is given of a rendered prompt.
TEXT_INPUTS = ("input_ids", "attention_mask")


class UnshowableError(ValueError):
    """A model cannot be shown a prompt as it is; the message says why, and what to change."""


# What a language model is given of a rendered prompt.
TEXT_INPUTS = ("input_ids", "attention_mask")


def render_shown(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    """Render prompts under no control on the host; the arguments, the result and the errors are those of `render`."""
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


def _make_turns(
    vlm: VisionLanguageModel, text: str, parts: Sequence[dict[str, Any]], system: str | None
) -> Turns:
    line = vlm.family.system if system is None else system
    return make_turns(text=text, parts=parts, system=line, form=vlm.system_form)
