"""State-dependent interventions: h ← h − α · Σ g(h) · v over unit directions v, with a gate g."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor

from cmrm.errors import UserError
from cmrm.steering.settings import Gate, Scope

# A block's directions [k, hidden], reference [hidden] and limit [], float32 on a device.
_AtBlock = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection:
    """Subtract from each state a part along given directions that depends on the state itself.

    `directions` is float32 [blocks, k, hidden], orthonormal at each block. With c = h − `reference` (float32
    [blocks, hidden], zero if None), a gate takes of each direction v:
    `projection`: c·v, so that α = 1 leaves no component along v (ablation; k directions: a subspace);
    `cosine`: ‖h‖ · clip(cos(c, v), 0, 1) (ASTRA's form);
    `relu`: max(c·v, 0), at most `limit` (float32 [blocks]), a trust region.
    `alpha` is the strength, 0 or more; a `sign` of −1 adds what 1 subtracts. `blocks` ascend.
    Raises `UserError` for an unknown gate or scope or a strength below 0; `ValueError` for wrong shapes, or directions
    that are not orthonormal.
    """

    directions: Tensor
    blocks: tuple[int, ...]
    alpha: float = 1.0
    sign: Literal[1, -1] = 1
    scope: Scope = "every_position"
    gate: Gate = "projection"
    reference: Tensor | None = None
    limit: Tensor | None = None
    # What each pass needs again, by block and device; gone with the projection, and with it the memory.
    _sent: dict[tuple[int, torch.device], _AtBlock] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not torch.isfinite(torch.tensor(self.alpha)) or self.alpha < 0:
            raise UserError(f"interventions.alpha: {self.alpha} is not a finite number of 0 or more.")
        for name, value, known in (("scope", self.scope, Scope), ("gate", self.gate, Gate)):
            if value not in get_args(known):
                raise UserError(
                    f"interventions.{name}: {value!r} is not one of {', '.join(get_args(known))}."
                )
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)):
            raise ValueError(f"blocks {self.blocks} must be distinct and ascend, at least one")
        if self.directions.dim() != 3 or self.directions.shape[0] != len(self.blocks):
            raise ValueError(
                f"directions of shape {tuple(self.directions.shape)} do not fit {len(self.blocks)} blocks"
            )
        gram = self.directions.double() @ self.directions.double().transpose(1, 2)
        if not torch.allclose(gram, torch.eye(gram.shape[-1], dtype=gram.dtype).to(gram), atol=1e-4):
            raise ValueError("directions are not orthonormal at each block")

    def acts_on(self, _row: int) -> bool:
        """Whether a row of the batch is steered: the strength is not zero."""
        return self.alpha > 0

    def of_rows(self, _rows: Sequence[int]) -> Projection:
        """Restrict the intervention to some rows of the batch: the same for each."""
        return self

    def compute_change(self, states: Tensor, block: int) -> Tensor:
        """Compute what is subtracted from states at a block: float32 [..., hidden], from float32 [..., hidden]."""
        directions, reference, limit = self._send(block, states.device)
        centred = states if reference is None else states - reference
        along = centred @ directions.T
        if self.gate == "cosine":
            cosine = along / centred.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            along = states.norm(dim=-1, keepdim=True) * cosine.clamp(0, 1)
        elif self.gate == "relu":
            along = along.clamp(min=0) if limit is None else along.clamp(min=0).minimum(limit)
        return self.sign * self.alpha * along @ directions

    def _send(self, block: int, device: torch.device) -> _AtBlock:
        if (block, device) not in self._sent:
            index = self.blocks.index(block)
            reference, limit = (
                None if whole is None else whole[index].float().to(device)
                for whole in (self.reference, self.limit)
            )
            self._sent[block, device] = self.directions[index].float().to(device), reference, limit
        return self._sent[block, device]
