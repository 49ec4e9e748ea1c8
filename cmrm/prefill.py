"""Read prompts up to their last token, which is where the ways of answering them part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import BatchFeature

from cmrm.model import VisionLanguageModel, last_prompt_positions, send
from cmrm.passes import count_positions, fewest_logits
from cmrm.prefix_cache import full_layers, open_cache, read_rest
from cmrm.prefix_reading import next_positions
from cmrm.prompt_batch import Prefix, PromptBatch


@dataclass(frozen=True, kw_only=True)
class Filled:
    """Prompts that were read but for their last tokens.

    `layers` holds for each block the keys and values [rows, heads, columns, head_dim]; `visible`, bool [rows, columns],
    says which of the columns hold a token of the row. `tokens` are the last tokens, int64 [rows], and `positions` are
    theirs.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    visible: Tensor
    tokens: Tensor
    positions: Tensor


def prefill(vlm: VisionLanguageModel, batch: PromptBatch) -> Filled:
    """Read a batch of prompts but for their last tokens, without logits. Call it in inference mode."""
    batch = replace(batch, inputs=send(vlm, batch.inputs))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    rows, last = torch.arange(mask.shape[0], device=mask.device), last_prompt_positions(mask)
    shorter = mask.clone()
    shorter[rows, last] = 0
    # On whichever side the padding is, the last column holds now no token of any row.
    inputs = {name: _drop_last_column(value, mask) for name, value in batch.inputs.items()}
    rest = replace(batch, inputs=BatchFeature({**inputs, "attention_mask": shorter[:, :-1]}))
    layers, visible, positions = (
        _read_whole(vlm, rest) if batch.prefix is None else _go_on(vlm, rest, batch.prefix)
    )
    return Filled(layers=layers, visible=visible, tokens=ids[rows, last], positions=positions)


_Read = tuple[Sequence[tuple[Tensor, Tensor]], Tensor, Tensor]


def _read_whole(vlm: VisionLanguageModel, batch: PromptBatch) -> _Read:
    inputs, base, cache = batch.inputs, vlm.model.base_model, open_cache(batch)
    base(
        **inputs, **count_positions(vlm, inputs), **fewest_logits(base), past_key_values=cache, use_cache=True
    )
    return full_layers(cache), inputs["attention_mask"].bool(), next_positions(vlm, inputs)


def _go_on(vlm: VisionLanguageModel, batch: PromptBatch, prefix: Prefix) -> _Read:
    mask, owners = batch.inputs["attention_mask"], batch.owners
    assert owners is not None  # a batch with a prefix says whose it is
    if mask.shape[1]:
        cache = open_cache(batch)
        read_rest(vlm, batch, cache)
        layers = full_layers(cache)
    else:
        layers = [
            (keys[owners.to(keys.device)], values[owners.to(keys.device)]) for keys, values in prefix.layers
        ]
    visible = torch.cat([prefix.mask[owners], mask.bool()], dim=1)
    return layers, visible, prefix.positions[owners] + mask.sum(dim=1)


def _drop_last_column(value: Tensor, mask: Tensor) -> Tensor:
    # Of two axes or more, all that goes by tokens has them second.
    return value[:, :-1] if torch.is_tensor(value) and value.shape[:2] == mask.shape else value
