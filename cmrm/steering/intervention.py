"""The intervention: subtract αΔ from hidden states at some blocks; several together are a stack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import get_args

import torch
from torch import Tensor

from cmrm.errors import UserError
from cmrm.steering.projection import Projection
from cmrm.steering.settings import DEFAULT_COMPOSITION, DEFAULT_SCOPE, WHOLE_PROMPT, Composition, Scope


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """The intervention on one batch: Δ, strength α, blocks, scope and composition.

    `delta` is [blocks, hidden] for all rows or [rows, blocks, hidden] with one Δ a row; `alpha` is the strength, a
    number or a tensor [rows]. `blocks` ascend. Scopes and compositions as in `DESIGN.md` §1.
    Raises `UserError` for a negative or non-finite strength, scope or composition; `ValueError` for wrong shapes.

    >>> import cmrm, torch
    >>> intervention = cmrm.Intervention(delta=torch.ones(2, 128), alpha=0.5, blocks=(6, 7))
    >>> intervention.scope, intervention.composition
    ('every_step', 'incremental')
    """

    delta: Tensor
    alpha: float | Tensor
    blocks: tuple[int, ...]
    scope: Scope = DEFAULT_SCOPE
    composition: Composition = DEFAULT_COMPOSITION

    def __post_init__(self) -> None:
        check_strength(self.alpha)
        if self.scope not in get_args(Scope):
            raise UserError(
                f"interventions.scope: {self.scope!r} is not one of {', '.join(get_args(Scope))}."
            )
        if self.composition not in get_args(Composition):
            known = ", ".join(get_args(Composition))
            raise UserError(f"interventions.composition: {self.composition!r} is not one of {known}.")
        if not self.blocks or list(self.blocks) != sorted(set(self.blocks)):
            raise ValueError(f"blocks {self.blocks} must be distinct and ascend, at least one")
        if self.delta.dim() not in (2, 3) or self.delta.shape[-2] != len(self.blocks):
            raise ValueError(f"Δ of shape {tuple(self.delta.shape)} does not fit {len(self.blocks)} blocks")
        if not torch.isfinite(self.delta).all():
            raise ValueError("Δ is not finite")

    def acts_on(self, row: int) -> bool:
        """Whether a row of the batch is steered: its strength is not zero."""
        alpha = torch.as_tensor(self.alpha)
        return bool((alpha[row] if alpha.dim() else alpha) > 0)

    def of_rows(self, rows: Sequence[int]) -> Intervention:
        """Restrict the intervention to some rows of the batch."""
        alpha = self.alpha
        return replace(
            self,
            delta=self.delta[list(rows)] if self.delta.dim() == 3 else self.delta,
            alpha=alpha[list(rows)] if isinstance(alpha, Tensor) and alpha.dim() == 1 else alpha,
        )


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Several interventions at once. Where they meet at one state, shifts are subtracted first, then projections.

    Raises `ValueError` without any part.
    """

    parts: tuple[Intervention | Projection, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a stack needs at least one intervention")

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks at which any part acts, ascending."""
        return tuple(sorted({block for part in self.parts for block in part.blocks}))

    def acts_on(self, row: int) -> bool:
        """Whether any part steers a row of the batch."""
        return any(part.acts_on(row) for part in self.parts)

    def of_rows(self, rows: Sequence[int]) -> Stack:
        """Restrict the parts to some rows of the batch."""
        return Stack(parts=tuple(part.of_rows(rows) for part in self.parts))


# What changes hidden states in one arm.
Steering = Intervention | Projection | Stack


def list_parts(steering: Steering | None) -> tuple[Intervention | Projection, ...]:
    """List the interventions of an arm in the order in which they act: shifts first, then projections."""
    if steering is None:
        return ()
    parts = steering.parts if isinstance(steering, Stack) else (steering,)
    return tuple(sorted(parts, key=lambda part: isinstance(part, Projection)))


def needs_own_prefill(steering: Steering | None) -> bool:
    """Whether an arm changes states before the last prompt token, so that it shares no prefill with other arms."""
    return any(part.scope in WHOLE_PROMPT for part in list_parts(steering))


def check_strength(alpha: float | Tensor) -> None:
    """Refuse a strength below zero, which would push the model away from its safety training, or a non-finite one."""
    values = torch.as_tensor(alpha, dtype=torch.float64)
    if not torch.isfinite(values).all():
        raise UserError(f"interventions.alpha: {alpha} is not a finite number; give 0 or more.")
    if (values < 0).any():
        raise UserError(
            f"interventions.alpha: {alpha} is below 0 and would push the model away from its safety training, "
            "which cmrm does not do. Give 0 or more; the paper uses 0 to 1."
        )


def compose(intervention: Intervention, rows: int) -> Tensor:
    """Compute what each block subtracts per unit of strength: float32 [rows, blocks, hidden]."""
    delta = intervention.delta.float()
    delta = delta.expand(rows, -1, -1)
    if delta.shape[0] != rows:
        raise ValueError(f"Δ holds {delta.shape[0]} rows for a batch of {rows}")
    if intervention.composition == "direct":
        return delta
    # The residual stream carries a shift on to later blocks, which therefore subtract only the difference to it.
    return torch.cat([delta[:, :1], delta[:, 1:] - delta[:, :-1]], dim=1)


def compute_shift(intervention: Intervention, rows: int, device: torch.device) -> Tensor:
    """Compute αΔ as each block subtracts it: float32 [rows, blocks, hidden] on a device."""
    strength = torch.as_tensor(intervention.alpha, dtype=torch.float32).to(device).expand(rows)
    return compose(intervention, rows).to(device) * strength[:, None, None]
