"""Render prompts under a control: batches of text whose tokens have positions of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.errors import UserError
from cmrm.models.control_prompts import FILLER, TokenRow, explain_no_controls, make_row
from cmrm.models.multimodal_positions import locate_tokens
from cmrm.models.rendering import render_shown

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prompts.conditions import Prompt


def render_controls(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> BatchFeature:
    """Render prompts under one control: tokens of text, at positions of their own, `position_ids` [rows, tokens]."""
    if reason := explain_no_controls(vlm.family, vlm.model.config.get_text_config()):
        raise UserError(f"condition {prompts[0].control}: {reason}.")
    shown = render_shown(vlm, [replace(prompt, control=None) for prompt in prompts])
    alone = render_shown(vlm, [replace(prompt, control=None, image=None, media=()) for prompt in prompts])
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
