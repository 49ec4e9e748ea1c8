"""Branches of the prompts under way, on the device: one cache row a prompt, in which its answers grow side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cmrm.masks import make_masks
from cmrm.model import VisionLanguageModel
from cmrm.parts import find_backbone
from cmrm.prefill import Filled
from cmrm.slots import Slots


class Branches:
    """Room for `rows` prompts, of which the first `used` are under way: what their branches are fed next, and see.

    In each pass a branch is fed one token, at the row's next columns, one a branch; it sees the prompt's columns and
    its own. All branches of a row are equally long, so they share their position.
    """

    def __init__(self, vlm: VisionLanguageModel, *, rows: int) -> None:
        self.vlm = vlm
        self.backbone = find_backbone(vlm)
        self.slots = Slots(blocks=len(vlm.blocks), slots=rows)
        self.used = 0
        self.width = 0
        self.numbers = torch.arange(rows, device=vlm.device)[:, None]
        self.offsets = self._zeros(0)
        self.positions, self.counts, self.columns = (self._zeros(rows) for _ in range(3))
        self.tokens = self._zeros(rows, 0)
        self.key_positions = self._zeros(rows, 0)
        self.visible = self._zeros(rows, 0, 0).bool()
        self.shifts: dict[int, Tensor] = {}
        # How many columns each row has filled, known here without asking the device.
        self.filled: list[int] = []
        # And how many tokens a branch of it has been through, padding included.
        self.read: list[int] = []

    def admit(self, filled: Filled, *, width: int) -> slice:
        """Take in prompts that were read but for their last tokens, each with `width` branches; returns their rows."""
        rows, columns = filled.visible.shape
        new = slice(self.used, self.used + rows)
        self._widen(width)
        self.slots.admit(filled.layers)
        self._lengthen(columns)
        counted = filled.visible.long().cumsum(dim=1) - 1
        self.visible[new] = False
        self.visible[new, :, :columns] = filled.visible[:, None]
        self.key_positions[new, :columns] = counted
        self.tokens[new] = filled.tokens[:, None]
        self.positions[new] = filled.positions
        self.counts[new] = filled.visible.sum(dim=1)
        self.columns[new] = columns
        for shift in self.shifts.values():
            shift[new] = 0
        self.filled += [columns] * rows
        self.read += [columns] * rows
        self.used += rows
        return new

    def set_shifts(self, part: slice, shifts: Mapping[int, Tensor]) -> None:
        """From now on these rows' branches are moved so, by block [rows, branches, hidden]."""
        for block, shift in shifts.items():
            if block not in self.shifts:
                # As wide as the rows have ever been, like all else that is kept for a branch.
                shape = (*self.tokens.shape, shift.shape[-1])
                # In float32, so that a moved state is rounded to the model's dtype once.
                self.shifts[block] = torch.zeros(shape, dtype=torch.float32, device=shift.device)
            self.shifts[block][part, : shift.shape[1]] = shift

    def feed(self, part: slice, *, width: int) -> Tensor:
        """Run the decoder on some rows' first `width` branches, one token each: final states [rows, width, hidden]."""
        rows = self.numbers[part]
        length = max(self.filled[part]) + width
        self._lengthen(length)
        fed = self.offsets[:width]
        columns = self.columns[part, None] + fed
        counts = self.counts[part, None].expand(-1, width)
        self.visible[rows, fed, columns] = True
        self.key_positions[rows, columns] = counts
        self.slots.aim(rows, columns, part=part, length=length, read=max(self.read[part]))
        masks = make_masks(
            self.backbone.config,
            visible=self.visible[part, :width, :length],
            query_positions=counts,
            key_positions=self.key_positions[part, :length],
            dtype=self.vlm.model.dtype,
        )
        output: Any = self.backbone(
            input_ids=self.tokens[part, :width],
            attention_mask=masks,
            position_ids=self.positions[part, None].expand(-1, width),
            past_key_values=self.slots,
            use_cache=True,
        )
        self.columns[part] += width
        self.positions[part] += 1
        self.counts[part] += 1
        self.filled[part] = [columns + width for columns in self.filled[part]]
        self.read[part] = [tokens + 1 for tokens in self.read[part]]
        hidden: Tensor = output.last_hidden_state
        return hidden

    def arrange(self, order: Sequence[Sequence[int]]) -> None:
        """Put each row's branches into a new order, one list of old numbers a row, all of one length: the new width."""
        width = len(order[0])
        index = torch.tensor(order, device=self.numbers.device)
        part = slice(0, self.used)
        self.tokens[part, :width] = self.tokens[part].gather(1, index)
        self.visible[part, :width] = self.visible[part].gather(
            1, index[:, :, None].expand(-1, -1, self.visible.shape[2])
        )
        for block, shift in self.shifts.items():
            chosen = index.to(shift.device)[:, :, None].expand(-1, -1, shift.shape[2])
            self.shifts[block][part, :width] = shift[part].gather(1, chosen)
        self.width = width

    def keep(self, moves: Sequence[tuple[int, int]], *, used: int) -> None:
        """Let go of rows: move some (from, to), after which the first `used` are under way."""
        for source, target in moves:
            for state in self._states():
                state[target] = state[source]
            self.filled[target] = self.filled[source]
            self.read[target] = self.read[source]
        self.slots.keep(moves, used=used)
        del self.filled[used:], self.read[used:]
        self.used = used

    def _states(self) -> list[Tensor]:
        return [
            self.positions,
            self.counts,
            self.columns,
            self.tokens,
            self.key_positions,
            self.visible,
            *self.shifts.values(),
        ]

    def _widen(self, width: int) -> None:
        self.width = max(self.width, width)
        more = self.width - self.tokens.shape[1]
        if more > 0:
            self.offsets = torch.arange(self.width, device=self.vlm.device)
            self.tokens = torch.nn.functional.pad(self.tokens, (0, more))
            self.visible = torch.nn.functional.pad(self.visible, (0, 0, 0, more))
            self.shifts = {
                block: torch.nn.functional.pad(shift, (0, 0, 0, more)) for block, shift in self.shifts.items()
            }

    def _lengthen(self, columns: int) -> None:
        self.slots.reserve(columns)
        more = self.slots.columns - self.visible.shape[2]
        if more > 0:
            self.visible = torch.nn.functional.pad(self.visible, (0, more))
            self.key_positions = torch.nn.functional.pad(self.key_positions, (0, more))

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.long, device=self.vlm.device)
