"""KV cache with one slot for each prompt, which holds the tokens of all its branches and is reused when they end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

# Slots have at least so many columns more than are asked for, and an eighth more: few copies, little unused memory.
STEP = 64


class KVSlots(Cache):
    """Keys and values of each block in [slots, heads, columns, head_dim], the first `used` slots in use.

    `set_write_positions` says where the next pass writes; the pass then sees those slots' columns up to a length.
    Memory is allocated on demand, an eighth more columns at a time, and is not touched before a prompt is admitted: on
    the CPU slots that stay free take none.
    """

    def __init__(self, *, blocks: int, slots: int) -> None:
        self._layers = [_KVSlotLayer(self) for _ in range(blocks)]
        super().__init__(layers=list(self._layers))
        self.slots = slots
        self.used = 0
        self.length = 0
        self.read = 0
        self.columns = 0
        self.rows = torch.empty(0, 1, dtype=torch.long)
        self.target = torch.empty(0, 0, dtype=torch.long)
        self.part = slice(0, 0)

    def admit(self, layers: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Copy prompts into the next free slots: keys and values of each block, [rows, heads, columns, dim].

        Of a model whose last blocks take those of earlier ones (Gemma 4), `layers` are the first blocks' alone.
        """
        rows, columns = layers[0][0].shape[0], layers[0][0].shape[2]
        if self.used + rows > self.slots:
            raise ValueError(
                f"{rows} more prompts need {rows} slots, and {self.used} of {self.slots} are in use"
            )
        self.reserve(columns)
        for layer, (keys, values) in zip(self._layers[: len(layers)], layers, strict=True):
            layer.allocate(keys, values)
            for slots, prefilled in ((layer.keys, keys), (layer.values, values)):
                new = slots[self.used : self.used + rows]
                new[:, :, :columns] = prefilled
                # No token attends to columns that were never written, but whoever had this memory may have left NaN
                # or inf, and 0 × NaN is NaN.
                new[:, :, columns:] = 0
        self.used += rows

    def reserve(self, columns: int) -> None:
        """Grow all slots, allocated now or later, to at least `columns` columns."""
        if columns > self.columns:
            self.columns = columns + max(STEP, columns // 8)
            for layer in self._layers:
                layer.lengthen()

    def set_write_positions(
        self, rows: Tensor, columns: Tensor, *, part: slice, length: int, read: int
    ) -> None:
        """Set where the next pass writes: the slots of `part`, of which it sees the first `length` columns.

        `rows` names the slots, int64 [fed rows, 1], and `columns` the target of each token, [fed rows, fed tokens].
        `read` is the largest number of tokens that a branch has been fed.
        """
        self.reserve(length)
        self.rows, self.target, self.part, self.length = rows, columns, part, length
        self.read = read

    def compact(self, moves: Sequence[tuple[int, int]], *, used: int) -> None:
        """Free slots: move some (from, to), after which the first `used` are in use."""
        for layer in (one for one in self._layers if one.is_initialized):
            for source, target in moves:
                layer.keys[target] = layer.keys[source]
                layer.values[target] = layer.values[source]
        self.used = used


class _KVSlotLayer(CacheLayerMixin):
    """One block's part of the slots, on the block's own device."""

    is_sliding = False

    def __init__(self, owner: KVSlots) -> None:
        super().__init__()
        self.owner = owner
        self.keys: Tensor
        self.values: Tensor

    def allocate(self, keys: Tensor, values: Tensor) -> None:
        if not self.is_initialized:
            self.keys, self.values = self._make(keys), self._make(values)
            self.is_initialized = True

    def lengthen(self) -> None:
        if self.is_initialized:
            used = self.owner.used
            for name in ("keys", "values"):
                old = getattr(self, name)
                new = self._make(old)
                new[:used, :, : old.shape[2]] = old[:used]
                new[:used, :, old.shape[2] :] = 0
                setattr(self, name, new)

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.allocate(key_states, value_states)

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        owner = self.owner
        rows, columns = owner.rows.to(self.keys.device), owner.target.to(self.keys.device)
        self.keys[rows, :, columns] = key_states.transpose(1, 2)
        self.values[rows, :, columns] = value_states.transpose(1, 2)
        return self.keys[owner.part, :, : owner.length], self.values[owner.part, :, : owner.length]

    def get_seq_length(self) -> int:
        # Llama 4 uses it as the first fed token's position and counts on from there. All branches of a slot are at one
        # position, while the number of columns grows by one for each branch.
        return max(0, self.owner.read - self.owner.target.shape[1] + 1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return max(self.owner.length, query_length), 0

    def get_max_length(self) -> int:
        return -1

    def _make(self, like: Tensor) -> Tensor:
        return torch.empty(
            self.owner.slots,
            like.shape[1],
            self.owner.columns,
            like.shape[3],
            dtype=like.dtype,
            device=like.device,
        )
