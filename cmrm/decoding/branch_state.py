"""Device state of the branches: one KV cache slot for each prompt, in which its answers grow side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from cmrm.decoding.kv_cache import KVSlots
from cmrm.models.modules import find_backbone
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.cache import PrefilledBatch
from cmrm.prefix.packing import make_masks


class BranchState:
    """Next tokens, positions and attention masks of up to `rows` prompts, of which the first `used` are in use.

    Each pass feeds one token to each branch, at the slot's next columns, one for each branch; a branch attends to the
    prompt's columns and to its own. All branches of a row are equally long, so they share their position.
    """

    def __init__(self, vlm: VisionLanguageModel, *, rows: int) -> None:
        self.vlm = vlm
        self.backbone = find_backbone(vlm)
        self.slots = KVSlots(blocks=len(vlm.blocks), slots=rows)
        self.used = 0
        self.width = 0
        self.numbers = torch.arange(rows, device=vlm.device)[:, None]
        self.offsets = self._zeros(0)
        self.positions, self.counts, self.columns = (self._zeros(rows) for _ in range(3))
        self.tokens = self._zeros(rows, 0)
        self.key_positions = self._zeros(rows, 0)
        self.visible = self._zeros(rows, 0, 0).bool()
        self.shifts: dict[int, Tensor] = {}
        # Which projections act on which branch; the decoder holds the projections.
        self.projections = self._zeros(rows, 0, 0).bool()
        # Columns in use in each row, known on the host without a device synchronization.
        self.filled: list[int] = []
        # Tokens that a branch of the row has been fed, padding included.
        self.read: list[int] = []

    def admit(self, prefilled: PrefilledBatch, *, width: int) -> slice:
        """Add prompts that were prefilled up to their last token, each with `width` branches; returns their rows."""
        rows, columns = prefilled.visible.shape
        new = slice(self.used, self.used + rows)
        self._widen(width)
        self.slots.admit(prefilled.layers)
        self._lengthen(columns)
        counted = prefilled.visible.long().cumsum(dim=1) - 1
        self.visible[new] = False
        self.visible[new, :, :columns] = prefilled.visible[:, None]
        self.key_positions[new, :columns] = counted
        self.tokens[new] = prefilled.tokens[:, None]
        self.positions[new] = prefilled.positions
        self.counts[new] = prefilled.visible.sum(dim=1)
        self.columns[new] = columns
        for shift in self.shifts.values():
            shift[new] = 0
        self.projections[new] = False
        self.filled += [columns] * rows
        self.read += [columns] * rows
        self.used += rows
        return new

    def set_steering(self, part: slice, shifts: Mapping[int, Tensor], projections: Tensor) -> None:
        """Set what these rows' branches subtract in the passes to come.

        αΔ by block, float32 [rows, branches, hidden], and which projections act, bool [rows, branches, projections].
        """
        if (more := projections.shape[2] - self.projections.shape[2]) > 0:
            self.projections = torch.nn.functional.pad(self.projections, (0, more))
        self.projections[part, : projections.shape[1]] = projections
        for block, shift in shifts.items():
            if block not in self.shifts:
                # As wide as the rows have ever been, like every tensor of branches here.
                shape = (*self.tokens.shape, shift.shape[-1])
                # In float32, so that a steered state is rounded to the model's dtype once.
                self.shifts[block] = torch.zeros(shape, dtype=torch.float32, device=shift.device)
            self.shifts[block][part, : shift.shape[1]] = shift

    def keep_projections(self, numbers: Sequence[int]) -> None:
        """Keep which branches these projections act on, renumbered in this order; the others act on none any more."""
        self.projections = self.projections[:, :, list(numbers)]

    def forward(self, part: slice, *, width: int) -> Tensor:
        """Run the backbone on the first `width` branches of some rows, one token each: [rows, width, hidden]."""
        rows = self.numbers[part]
        length = max(self.filled[part]) + width
        self._lengthen(length)
        fed = self.offsets[:width]
        columns = self.columns[part, None] + fed
        counts = self.counts[part, None].expand(-1, width)
        self.visible[rows, fed, columns] = True
        self.key_positions[rows, columns] = counts
        self.slots.set_write_positions(rows, columns, part=part, length=length, read=max(self.read[part]))
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

    def permute(self, order: Sequence[Sequence[int]]) -> None:
        """Reorder each row's branches by one list of old numbers a row; their common length is the new width."""
        width = len(order[0])
        index = torch.tensor(order, device=self.numbers.device)
        part = slice(0, self.used)
        self.tokens[part, :width] = self.tokens[part].gather(1, index)
        self.visible[part, :width] = self.visible[part].gather(
            1, index[:, :, None].expand(-1, -1, self.visible.shape[2])
        )
        self.projections[part, :width] = self.projections[part].gather(
            1, index[:, :, None].expand(-1, -1, self.projections.shape[2])
        )
        for block, shift in self.shifts.items():
            chosen = index.to(shift.device)[:, :, None].expand(-1, -1, shift.shape[2])
            self.shifts[block][part, :width] = shift[part].gather(1, chosen)
        self.width = width

    def compact(self, moves: Sequence[tuple[int, int]], *, used: int) -> None:
        """Free rows: move some (from, to), after which the first `used` are in use."""
        for source, target in moves:
            for state in self._states():
                state[target] = state[source]
            self.filled[target] = self.filled[source]
            self.read[target] = self.read[source]
        self.slots.compact(moves, used=used)
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
            self.projections,
            *self.shifts.values(),
        ]

    def _widen(self, width: int) -> None:
        self.width = max(self.width, width)
        more = self.width - self.tokens.shape[1]
        if more > 0:
            self.offsets = torch.arange(self.width, device=self.vlm.device)
            self.tokens = torch.nn.functional.pad(self.tokens, (0, more))
            self.visible = torch.nn.functional.pad(self.visible, (0, 0, 0, more))
            self.projections = torch.nn.functional.pad(self.projections, (0, 0, 0, more))
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
