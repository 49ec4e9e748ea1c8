"""Prompts that share a prefix: the batch, the prefix's KV cache, and the prefill of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin

from cmrm.models.forward_arguments import run_without_head
from cmrm.models.modules import find_backbone
from cmrm.models.multimodal_positions import shows_media
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions, send
from cmrm.prefix.early_stop import keeping_keys_alone


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Prefilled prefixes of prompts: their keys and values.

    `layers` holds for each block its keys and values, [prefixes, heads, tokens, head_dim], left-padded, and empty
    tensors for a block that was skipped; `mask` is bool [prefixes, tokens]; `positions` int64 [prefixes] is the
    position of the token that comes next.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    positions: Tensor

    @property
    def tokens(self) -> int:
        """Length of the longest prefix in tokens."""
        return int(self.mask.shape[1])


@dataclass(frozen=True, kw_only=True)
class PromptBatch:
    """A batch of prompts ready for prefill.

    Without a `prefix`, `inputs` are the whole prompts as `render` gives them, on the model's device and left-padded.
    With one, they are `input_ids` and `attention_mask` of the rest of each row, on the host and right-padded, and row i
    continues prefix `owners[i]`, int64 [rows].
    """

    inputs: BatchFeature
    prefix: Prefix | None = None
    owners: Tensor | None = None

    @property
    def rows(self) -> int:
        """Number of prompts."""
        return int(self.inputs["input_ids"].shape[0])

    def of_row(self, row: int) -> PromptBatch:
        """One of several prompts of text, that of a row."""
        inputs = BatchFeature({name: value[row : row + 1] for name, value in self.inputs.items()})
        owners = None if self.owners is None else self.owners[row : row + 1]
        return replace(self, inputs=inputs, owners=owners)


def is_text(inputs: BatchFeature) -> bool:
    """Whether rendered prompts show no media: nothing but tensors of tokens."""
    shape = inputs["attention_mask"].shape
    return all(torch.is_tensor(value) and value.shape == shape for value in inputs.values())


def read_prefixes(vlm: VisionLanguageModel, inputs: BatchFeature, lengths: Sequence[int]) -> Prefix:
    """Prefill the first `lengths[i]` tokens of each rendered prompt i, with all of its image tokens or none.

    Call it in inference mode and outside of `steer`.
    """
    begun = send(vlm, cut_prompts(inputs, lengths, pad=vlm.processor.tokenizer.pad_token_id))
    # Created without the config, so that sliding-window layers keep all tokens and the prefix can be cropped.
    cache = DynamicCache()
    _read_whole(vlm, begun, cache)
    mask = begun["attention_mask"].bool()
    return Prefix(layers=_take_layers(cache, mask), mask=mask, positions=next_positions(vlm, begun))


def crop(prefix: Prefix, tokens: int) -> Prefix:
    """Crop a single prefix to its first tokens; the rest must be text, whose positions are one apart."""
    return Prefix(
        layers=tuple((keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in prefix.layers),
        mask=prefix.mask[:, :tokens],
        positions=prefix.positions - (prefix.tokens - tokens),
    )


def cut_prompts(inputs: BatchFeature, lengths: Sequence[int], *, pad: int) -> BatchFeature:
    """Cut each row of the tensors with a token axis to its first tokens, left-padded; leave the others as they are."""
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
    """Position of the token after each row of the pass that has just run, int64 [rows]."""
    counted: Tensor = inputs["attention_mask"].long().sum(dim=1) + vlm.family.first_position
    if shows_media(vlm, inputs):
        # Set by the previous pass (M-RoPE): the difference between positions and the count of tokens.
        return counted + vlm.model.base_model.rope_deltas.to(counted.device).flatten()
    return counted


class SharedLayer(CacheLayerMixin):
    """One block's cache: `keys` and `values` hold the new tokens alone, [rows, heads, tokens, head_dim]."""

    # No token is evicted: the attention mask ends the window.
    is_sliding = False

    def __init__(self, keys: Tensor, values: Tensor, owners: Tensor) -> None:
        super().__init__()
        self.prefix = (keys, values)
        self.owners = owners
        self.shared = keys.shape[2]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Start empty, on the device and in the dtype of these."""
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append the new keys and values, and return all."""
        if self.keys is None or self.values is None:
            self.keys, self.values = key_states, value_states
            self.is_initialized = True
        else:
            self.keys = torch.cat([self.keys, key_states], dim=2)
            self.values = torch.cat([self.values, value_states], dim=2)
        return self.join()

    def join(self) -> tuple[Tensor, Tensor]:
        """Concatenate the prefix and the new keys and values: [rows, heads, prefix + new tokens, head_dim]."""
        if self.keys is None or self.values is None:
            return self.prefix
        if self.shared == 0:
            return self.keys, self.values
        keys, values = (self._spread(one) for one in self.prefix)
        return torch.cat([keys, self.keys], dim=2), torch.cat([values, self.values], dim=2)

    def get_seq_length(self) -> int:
        """How many tokens the cache holds, with the prefix."""
        return self.shared + (0 if self.keys is None else self.keys.shape[2])

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the mask of a pass with `query_length` new tokens."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """The cache grows without limit (−1)."""
        return -1

    def _spread(self, shared: Tensor) -> Tensor:
        if shared.shape[0] == 1:
            return shared.expand(len(self.owners), -1, -1, -1)
        return shared[self.owners.to(shared.device)]


def begin_nowhere(vlm: VisionLanguageModel) -> Prefix:
    """Make a prefix of no tokens, for prompts that are packed and share none."""
    nothing = torch.empty(1, 0, 0, 0, device=vlm.device)
    return Prefix(
        layers=((nothing, nothing),) * len(vlm.blocks),
        mask=torch.empty(1, 0, dtype=torch.bool, device=vlm.device),
        positions=torch.full((1,), vlm.family.first_position, device=vlm.device),
    )


def open_cache(batch: PromptBatch) -> Cache:
    """Make a KV cache for a batch: one that starts with its prefix, or an empty one."""
    if batch.prefix is None or batch.owners is None:
        return DynamicCache()
    return continue_cache(batch.prefix, batch.owners)


def continue_cache(prefix: Prefix, owners: Tensor) -> Cache:
    """Make a KV cache whose row i begins with prefix `owners[i]`."""
    return Cache(layers=[SharedLayer(keys, values, owners) for keys, values in prefix.layers])


def read_rest(vlm: VisionLanguageModel, batch: PromptBatch, cache: Cache) -> Tensor:
    """Prefill what follows the prefixes of a batch into its cache: last hidden states [rows, new tokens, hidden].

    The rest has no image, so only the backbone runs. `ValueError` for a batch without a prefix.
    """
    if batch.prefix is None or batch.owners is None:
        raise ValueError("this batch has no prefix to continue from; give its inputs to the model")
    prefix, inputs = batch.prefix, send(vlm, batch.inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    columns = torch.arange(ids.shape[1], device=ids.device)
    made = find_backbone(vlm)(
        input_ids=ids,
        attention_mask=torch.cat([prefix.mask[batch.owners].to(mask.dtype), mask], dim=1),
        # One position a token: on text, all axes of M-RoPE are equal.
        position_ids=prefix.positions[batch.owners][:, None] + columns,
        past_key_values=cache,
        use_cache=True,
    )
    hidden: Tensor = made.last_hidden_state
    return hidden


def full_layers(cache: Cache) -> list[tuple[Tensor, Tensor]]:
    """Materialize the keys and values of each block of a cache of `open_cache`: [rows, heads, tokens, head_dim].

    This copies the prefix for each row. Both are empty for a block that was skipped.
    """
    return [_join(layer) for layer in cache.layers]


def _join(layer: Any) -> tuple[Tensor, Tensor]:
    if isinstance(layer, SharedLayer):
        return layer.join()
    return (torch.empty(0), torch.empty(0)) if layer.keys is None else (layer.keys, layer.values)


@dataclass(frozen=True, kw_only=True)
class PrefilledBatch:
    """Prompts prefilled up to their last token.

    `layers` holds for each block the keys and values [rows, heads, columns, head_dim]; `visible`, bool [rows, columns],
    marks the columns that hold a token of the row. `tokens` are the last tokens, int64 [rows], at `positions`.
    """

    layers: Sequence[tuple[Tensor, Tensor]]
    visible: Tensor
    tokens: Tensor
    positions: Tensor

    def of_rows(self, rows: Sequence[int]) -> PrefilledBatch:
        """Choose some prompts; no copy is made if these are all, in their order."""
        if list(rows) == list(range(len(self.tokens))):
            return self
        index = torch.tensor(rows, device=self.tokens.device)
        layers = [
            (keys[index.to(keys.device)], values[index.to(values.device)]) for keys, values in self.layers
        ]
        return PrefilledBatch(
            layers=layers,
            visible=self.visible[index],
            tokens=self.tokens[index],
            positions=self.positions[index],
        )

    def take_prefix(self, rows: Sequence[int], lengths: Sequence[int], *, counts: Sequence[int]) -> Prefix:
        """Copy the first `lengths[i]` tokens of the i-th chosen row as a prefix; the rest must be text.

        `counts` are the tokens of these rows' prompts, the last included; the rows are left-padded.
        """
        longest, columns = max(lengths), self.visible.shape[1]
        ahead = [longest - length for length in lengths]
        first = [columns - count + 1 - space for count, space in zip(counts, ahead, strict=True)]
        device = self.visible.device
        index, starts, spaces, cut = (
            torch.tensor(one).to(device, non_blocking=True) for one in (rows, first, ahead, lengths)
        )
        steps = torch.arange(longest, device=device)
        sources = (starts[:, None] + steps).clamp(min=0)
        given = torch.tensor(counts).to(device, non_blocking=True)
        return Prefix(
            layers=tuple(
                (_choose(keys, index, sources), _choose(values, index, sources))
                for keys, values in self.layers
            ),
            mask=steps >= spaces[:, None],
            positions=self.positions[index] - (given - 1 - cut),
        )


def _choose(states: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Choose keys or values [rows, heads, columns, head_dim] by row and by column, int64 [chosen, columns]."""
    rows, columns = rows.to(states.device), columns.to(states.device)
    return states[rows[:, None], :, columns].transpose(1, 2)


def prefill(vlm: VisionLanguageModel, batch: PromptBatch) -> PrefilledBatch:
    """Prefill a batch of prompts up to their last token, without logits. Call it in inference mode."""
    batch = replace(batch, inputs=send(vlm, batch.inputs))
    ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
    rows, last = torch.arange(mask.shape[0], device=mask.device), last_prompt_positions(mask)
    shorter = mask.clone()
    shorter[rows, last] = 0
    # With left or right padding, the last column holds no token of any row now.
    inputs = {name: _drop_last_column(value, mask) for name, value in batch.inputs.items()}
    rest = replace(batch, inputs=BatchFeature({**inputs, "attention_mask": shorter[:, :-1]}))
    layers, visible, positions = (
        _prefill_whole(vlm, rest) if batch.prefix is None else _continue_prefix(vlm, rest, batch.prefix)
    )
    if "position_ids" in batch.inputs:
        # A gap may lie right before the last token.
        positions = batch.inputs["position_ids"][rows, last]
    return PrefilledBatch(layers=layers, visible=visible, tokens=ids[rows, last], positions=positions)


_Prefilled = tuple[Sequence[tuple[Tensor, Tensor]], Tensor, Tensor]


def _prefill_whole(vlm: VisionLanguageModel, batch: PromptBatch) -> _Prefilled:
    inputs, cache = batch.inputs, open_cache(batch)
    _read_whole(vlm, inputs, cache)
    return full_layers(cache), inputs["attention_mask"].bool(), next_positions(vlm, inputs)


def _read_whole(vlm: VisionLanguageModel, inputs: BatchFeature, cache: Cache) -> None:
    """Fill an empty cache with the keys and values of rendered prompts, and no more."""
    with keeping_keys_alone(vlm, cache, images=0 if is_text(inputs) else 1):
        run_without_head(vlm, inputs, cache=cache)


def _continue_prefix(vlm: VisionLanguageModel, batch: PromptBatch, prefix: Prefix) -> _Prefilled:
    mask, owners = batch.inputs["attention_mask"], batch.owners
    assert owners is not None  # a batch with a prefix has owners
    if mask.shape[1]:
        cache = open_cache(batch)
        with keeping_keys_alone(vlm, cache, images=0):
            read_rest(vlm, batch, cache)
        layers = full_layers(cache)
    else:
        layers = [
            (keys[owners.to(keys.device)], values[owners.to(keys.device)]) for keys, values in prefix.layers
        ]
    visible = torch.cat([prefix.mask[owners], mask.bool()], dim=1)
    return layers, visible, prefix.positions[owners] + mask.sum(dim=1)


def _drop_last_column(value: Tensor, mask: Tensor) -> Tensor:
    # In every tensor with a token axis, it is the second.
    return value[:, :-1] if torch.is_tensor(value) and value.shape[:2] == mask.shape else value
