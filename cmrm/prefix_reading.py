"""Read the beginnings of prompts: one pass of the whole model, of which the keys and values are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import BatchFeature, DynamicCache

from cmrm.model import VisionLanguageModel, send
from cmrm.passes import count_positions, fewest_logits
from cmrm.prompt_batch import Prefix


def read_prefixes(vlm: VisionLanguageModel, inputs: BatchFeature, lengths: Sequence[int]) -> Prefix:
    """Read the first `lengths[i]` tokens of each rendered prompt i; all image tokens must be among them, or none.

    Call it in inference mode and outside of `steer`.
    """
    cut = send(vlm, _cut(inputs, lengths, pad=vlm.processor.tokenizer.pad_token_id))
    base = vlm.model.base_model
    # Made without the config: layers with a sliding window then keep all tokens, and what follows can be cut off.
    cache = DynamicCache()
    base(**cut, **count_positions(vlm, cut), **fewest_logits(base), past_key_values=cache, use_cache=True)
    mask = cut["attention_mask"].bool()
    return Prefix(layers=_take_layers(cache, mask), mask=mask, positions=next_positions(vlm, cut))


def crop(prefix: Prefix, tokens: int) -> Prefix:
    """The first tokens of a single prefix; what is cut off must be text, whose positions are one apart."""
    return Prefix(
        layers=tuple((keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in prefix.layers),
        mask=prefix.mask[:, :tokens],
        positions=prefix.positions - (prefix.tokens - tokens),
    )


def _cut(inputs: BatchFeature, lengths: Sequence[int], *, pad: int) -> BatchFeature:
    """The first tokens of each row in what holds one number a token, padded on the left; all else as it is."""
    mask = inputs["attention_mask"].bool()
    return BatchFeature(
        {
            name: _cut_rows(value, mask, lengths, pad if name == "input_ids" else 0)
            if isinstance(value, Tensor) and value.shape == mask.shape
            else value
            for name, value in inputs.items()
        }
    )


def _cut_rows(value: Tensor, mask: Tensor, lengths: Sequence[int], pad: int) -> Tensor:
    longest = max(lengths)
    made = value.new_full((len(lengths), longest), pad)
    for row, length in enumerate(lengths):
        made[row, longest - length :] = value[row][mask[row]][:length]
    return made


def _take_layers(cache: Any, mask: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    nothing = mask.new_empty(mask.shape[0], 0, 0, 0)
    return tuple((nothing, nothing) if one.keys is None else (one.keys, one.values) for one in cache.layers)


def next_positions(vlm: VisionLanguageModel, inputs: BatchFeature) -> Tensor:
    """The position of the token that comes after each row of a pass that has just been made, int64 [rows]."""
    counted: Tensor = inputs["attention_mask"].long().sum(dim=1) + vlm.family.first_position
    if vlm.family.positions == "multimodal" and "pixel_values" in inputs:
        # Left there by the pass before: how much further, or less far, positions are than the count of tokens.
        return counted + vlm.model.base_model.rope_deltas.to(counted.device).flatten()
    return counted
