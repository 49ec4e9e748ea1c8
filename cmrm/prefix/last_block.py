"""The last block whose states are read: run over all tokens up to its keys and values, and beyond at some of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, Cache

from cmrm.models.modules import find_backbone
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions
from cmrm.prefix.block_skipping import replace_forward, skip_blocks
from cmrm.prefix.cache import Prefix, PromptBatch, SharedLayer, next_positions
from cmrm.prefix.early_stop import KeysTakenError
from cmrm.prefix.packing import Masks, Packed, make_masks


@dataclass(frozen=True, kw_only=True)
class Queries:
    """Tokens of a pass at which a block is run to its end.

    `ids`, `positions` and `columns`, their places in the pass, are int64 [rows, queries]; `masks` say what they attend
    to. `index` is int64 [states, 2]: the row and the query of each state; the other queries are padding.
    """

    ids: Tensor
    positions: Tensor
    columns: Tensor
    masks: Masks
    index: Tensor


class _PassingLayer(SharedLayer):
    """Cache of a block whose new keys and values are needed while the block runs, and no longer.

    `begun` is the number of tokens before those of the pass, besides the prefix.
    """

    begun = 0

    def get_seq_length(self) -> int:
        """How many tokens there are before those of the pass."""
        return self.shared + self.begun

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Return the keys and values of the prefix and of the pass."""
        self.keys, self.values = key_states, value_states
        joined = self.join()
        self.keys = self.values = None
        return joined


class _KeptLayer(_PassingLayer):
    """Cache of the last block: keeps the keys and values of the first pass, and gives them to the second."""

    taken: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Keep all and end the block's run; in the second pass, whose tokens are among them, return what is kept."""
        if self.taken is None:
            self.taken = super().update(key_states, value_states)
            raise KeysTakenError
        return self.taken


class LastBlock:
    """Two passes that give a block's output at some tokens, for less than one pass over all of them.

    A state needs the keys and values of all tokens before it, and of the rest of its block (queries, attention, output
    projection, feed-forward) its own token alone. So the first pass ends the block at the call that puts its keys and
    values into the cache, and leaves out the blocks above; the second runs the block alone, at the chosen tokens.
    """

    def __init__(
        self,
        vlm: VisionLanguageModel,
        block: int,
        *,
        prefix: Prefix | None = None,
        owners: Tensor | None = None,
    ) -> None:
        self._vlm, self.number, self._block = vlm, block, vlm.blocks[block]
        self._run = self._block.forward
        self._hidden: Tensor | None = None
        nothing = torch.empty(1, 0, 0, 0, device=vlm.device)
        self._layers = [
            (_KeptLayer if number == block else _PassingLayer)(
                *((nothing, nothing) if prefix is None else prefix.layers[number]),
                nothing if owners is None else owners,
            )
            for number in range(len(vlm.blocks))
        ]
        self.cache = Cache(layers=list(self._layers))

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """End the block early while the body runs the model on all tokens with `cache`."""
        above = range(self.number + 1, len(self._vlm.blocks))
        with skip_blocks(self._vlm, dict.fromkeys(above)), replace_forward(self._block, self._stop):
            yield

    @property
    def has_stopped(self) -> bool:
        """Whether the first pass ended the block early; one that uses no cache has run to its end."""
        return self._hidden is not None

    def read(self, queries: Queries) -> None:
        """Run the block at tokens of the first pass; hooks on it see [rows, queries, hidden]."""
        assert self._hidden is not None  # the block has stopped
        hidden, columns = self._hidden, queries.columns
        rows = torch.arange(len(columns), device=columns.device)[:, None]
        self._hidden = hidden[rows.to(hidden.device), columns.to(hidden.device)]
        for layer in self._layers:
            layer.begun = hidden.shape[1] - columns.shape[1]
        others = [number for number in range(len(self._vlm.blocks)) if number != self.number]
        with skip_blocks(self._vlm, dict.fromkeys(others)), replace_forward(self._block, self._resume):
            find_backbone(self._vlm)(
                input_ids=queries.ids,
                attention_mask=queries.masks,
                position_ids=queries.positions,
                past_key_values=self.cache,
                use_cache=True,
            )

    def _stop(self, hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        try:
            return self._run(hidden_states, *arguments, **options)
        except KeysTakenError:
            self._hidden = hidden_states
            return hidden_states

    def _resume(self, _hidden_states: Tensor, *arguments: Any, **options: Any) -> Any:
        return self._run(self._hidden, *arguments, **options)


def find_ends(vlm: VisionLanguageModel, inputs: BatchFeature) -> Queries:
    """The last tokens of rendered prompts, which the model has just run over."""
    mask = inputs["attention_mask"].bool()
    last = last_prompt_positions(mask)[:, None]
    positions = (
        inputs["position_ids"].gather(1, last)
        if "position_ids" in inputs
        else next_positions(vlm, inputs)[:, None] - 1
    )
    return _make_queries(vlm, inputs["input_ids"].gather(1, last), positions, last, visible=mask)


def find_ends_of_rests(
    vlm: VisionLanguageModel, batch: PromptBatch, *, prefix: Prefix, owners: Tensor
) -> Queries:
    """The last tokens of prompts that continue prefixes, on the model's device."""
    mask = batch.inputs["attention_mask"].bool()
    last = last_prompt_positions(mask)[:, None]
    return _make_queries(
        vlm,
        batch.inputs["input_ids"].gather(1, last),
        prefix.positions[owners][:, None] + last,
        last,
        visible=torch.cat([prefix.mask[owners], mask], dim=1),
    )


def find_ends_of_packed(packed: Packed, *, prefix: Prefix, masks: Masks) -> Queries:
    """The last tokens of packed prompts; `masks` are those of the pass."""
    ends = packed.ends
    rows = torch.arange(len(ends), device=ends.device)[:, None]

    def choose(mask: Tensor) -> Tensor:
        return mask[rows, 0, ends][:, None]

    return Queries(
        ids=packed.ids.gather(1, ends),
        positions=prefix.positions[:, None] + packed.places.gather(1, ends),
        columns=ends,
        masks={kind: choose(mask) for kind, mask in masks.items()}
        if isinstance(masks, dict)
        else choose(masks),
        index=packed.numbers,
    )


def _make_queries(
    vlm: VisionLanguageModel, ids: Tensor, positions: Tensor, columns: Tensor, *, visible: Tensor
) -> Queries:
    """One query a row, which attends to all tokens of the row, bool [rows, columns]."""
    counted = visible.long().cumsum(dim=1) - 1
    rows = torch.arange(len(ids), device=ids.device)
    return Queries(
        ids=ids,
        positions=positions,
        columns=columns,
        masks=make_masks(
            find_backbone(vlm).config,
            visible=visible[:, None],
            query_positions=counted[:, -1:],
            key_positions=counted,
            dtype=vlm.model.dtype,
        ),
        index=torch.stack([rows, torch.zeros_like(rows)], dim=1),
    )
