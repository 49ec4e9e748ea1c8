"""The key-value cache of prompts that come and go: one slot each, with room for all branches of its answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache
from transformers.cache_utils import CacheLayerMixin

# Slots are lengthened by at least so many columns, and by an eighth of what they have: seldom, and little in vain.
STEP = 64


class Slots(Cache):
    """Keys and values of each block in [slots, heads, columns, head_dim], the first `used` slots in use.

    `aim` says where the next pass writes; the pass then sees those slots' columns up to a length.
    Memory is taken as it is needed and grows by an eighth at a time.
    """

    def __init__(self, *, blocks: int, slots: int) -> None:
        self._layers = [_SlotLayer(self) for _ in range(blocks)]
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
        """Take more prompts into the slots after those in use: keys and values a block, [rows, heads, columns, dim]."""
        rows, columns = layers[0][0].shape[0], layers[0][0].shape[2]
        if self.used + rows > self.slots:
            raise ValueError(
                f"{rows} more prompts do not fit into {self.slots} slots, {self.used} of them in use"
            )
        self.reserve(columns)
        for layer, (keys, values) in zip(self._layers, layers, strict=True):
            layer.allocate(keys, values)
            for slots, filled in ((layer.keys, keys), (layer.values, values)):
                new = slots[self.used : self.used + rows]
                new[:, :, :columns] = filled
                # Who had the slot may have left numbers that are not finite: zero times such a one is not zero.
                new[:, :, columns:] = 0
        self.used += rows

    def reserve(self, columns: int) -> None:
        """Have room for so many columns a slot; what is allocated later has it too."""
        if columns > self.columns:
            self.columns = max(columns, self.columns + max(STEP, self.columns // 8))
            for layer in self._layers:
                layer.lengthen()

    def aim(self, rows: Tensor, columns: Tensor, *, part: slice, length: int, read: int) -> None:
        """The next pass is of the slots of `part`, whose columns it sees as far as `length`.

        `rows` names the slots, int64 [fed rows, 1], and `columns` where its tokens go, [fed rows, fed tokens]. `read`
        is how many tokens a branch has been through, at most.
        """
        self.reserve(length)
        self.rows, self.target, self.part, self.length = rows, columns, part, length
        self.read = read

    def keep(self, moves: Sequence[tuple[int, int]], *, used: int) -> None:
        """Let go of slots: move some (from, to), after which the first `used` are in use."""
        for layer in self._layers:
            for source, target in moves:
                layer.keys[target] = layer.keys[source]
                layer.values[target] = layer.values[source]
        self.used = used


class _SlotLayer(CacheLayerMixin):
    """One block's part of the slots, on the block's own device."""

    is_sliding = False

    def __init__(self, owner: Slots) -> None:
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
            for name in ("keys", "values"):
                old = getattr(self, name)
                new = self._make(old)
                new[: self.owner.used, :, : old.shape[2]] = old[: self.owner.used]
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
        # Llama 4 takes it for the first fed token's position and counts on from there; branches are at one position,
        # which columns, that are one a branch, would make out to be far behind it.
        return max(0, self.owner.read - self.owner.target.shape[1] + 1)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return max(self.owner.length, query_length), 0

    def get_max_length(self) -> int:
        return -1

    def _make(self, like: Tensor) -> Tensor:
        # Columns that were never written are seen by nobody, but zero times a stray NaN would be one.
        return torch.zeros(
            self.owner.slots,
            like.shape[1],
            self.owner.columns,
            like.shape[3],
            dtype=like.dtype,
            device=like.device,
        )
