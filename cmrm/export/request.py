"""What is exported: a shift that does not depend on the state, the model that it is for, and where it comes from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from torch import Tensor

from cmrm.errors import UserError
from cmrm.models.families import Family
from cmrm.models.family_lookup import find_family
from cmrm.models.revision import ModelIdentity
from cmrm.steering.intervention import Intervention, Stack, Steering, check_strength, compose, list_parts
from cmrm.steering.settings import Scope

# What does the same to every token, whatever it reads, and so can be written down as one vector a block.
CONSTANT = "a Δ at dataset level, a part of one, a labelled direction that is added, or a random one"


@dataclass(frozen=True, kw_only=True)
class ConstantShift:
    """A shift that is the same for every prompt and token: what each block subtracts.

    `subtracted` is float32 [blocks, hidden] for α = 1, the composition applied; row i belongs to decoder block
    `blocks[i]`, ascending. `scope` is that of the intervention as it was measured.
    Raises `UserError` for a strength below zero, and `ValueError` for wrong shapes and what is not finite.
    """

    subtracted: Tensor
    alpha: float
    blocks: tuple[int, ...]
    scope: Scope

    def __post_init__(self) -> None:
        check_strength(self.alpha)
        # Its checks are those of an intervention.
        self.intervene(self.scope)

    @property
    def added(self) -> Tensor:
        """What each block adds to its output at this strength, −α · `subtracted`: float32 [blocks, hidden]."""
        return -self.alpha * self.subtracted

    @property
    def digest(self) -> str:
        """SHA-256 of blocks and vectors, without the strength."""
        numbers = self.subtracted.contiguous().cpu().numpy().astype("<f4").tobytes()
        return f"sha256:{hashlib.sha256(repr(self.blocks).encode() + numbers).hexdigest()}"

    def intervene(self, scope: Scope) -> Intervention:
        """Make the intervention that subtracts it at the tokens of a scope."""
        return Intervention(
            delta=self.subtracted, alpha=self.alpha, blocks=self.blocks, scope=scope, composition="direct"
        )

    def is_same_at(self, scope: Scope, *, last_block: int) -> bool:
        """Whether acting at the tokens of a scope gives the answers that it was measured with.

        No later token attends to the output of the last block, so there only the tokens count that give a logit.
        """
        return scope == self.scope or self.blocks == (last_block,)


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a shift comes from: the run's id and the arm's name, or a file of Δ.

    `shifts` are the keys of its measurements in the run's store; `made_from` says what it was measured on. The run has
    answers under this arm at the strengths `answered_at`, and at the blocks `answered_blocks`.
    """

    arm: str
    run: str | None = None
    shifts: tuple[str, ...] = ()
    made_from: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    answered_at: tuple[float, ...] = ()
    answered_blocks: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """An export: the resolved model with its `config.json`, the shift, its origin, and the dtype to be served.

    `dtype` is `auto` for that of the model's files. `blocks` is the number of decoder blocks. `label` is what people
    call the model, None for its folder's name or id; `device` is where models run meanwhile. `family` is the row that
    the model is read with: the one that was given for it, or once it is loaded that of the table or the derived one.
    Raises `UserError` for a type whose state is several streams.
    """

    model: ModelIdentity
    config: Mapping[str, Any] = field(repr=False)
    shift: ConstantShift
    origin: Origin
    dtype: str = "auto"
    blocks: int
    label: str | None = None
    device: str = "auto"
    family: Family | None = None

    def __post_init__(self) -> None:
        row = self.row
        if row is not None and row.streams is not None:
            raise UserError(
                f"the state of {self.model.model_type} models is several streams side by side, and no file that "
                "servers read holds a vector for each: answer with cmrm run or from Python (docs/python.md)."
            )

    @property
    def row(self) -> Family | None:
        """The row that is known of the model before it is loaded; None for a type whose row is derived."""
        return self.family or find_family(self.model.model_type)

    @property
    def name(self) -> str:
        """What the model is called in cards and canaries."""
        return self.label or self.model.own_name

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The section of the config that describes the language model."""
        found: Mapping[str, Any] = self.config.get("text_config", self.config)
        return found

    @property
    def last_block(self) -> int:
        """The number of the last decoder block."""
        return self.blocks - 1


def make_constant(steering: Steering | None, *, arm: str) -> ConstantShift:
    """Make the constant shift of an arm; raises `UserError`, with the reason, for one that has none."""
    if steering is None:
        refuse(arm, "changes no hidden state")
    parts = list_parts(steering)
    shifts = [part for part in parts if isinstance(part, Intervention)]
    if len(shifts) < len(parts):
        refuse(arm, "takes from each state what lies along a direction, which depends on the state")
    if any(part.delta.dim() == 3 for part in shifts):
        refuse(arm, "subtracts a Δ of each question's own (level sample)")
    if any(part.scope == "prefill" for part in shifts):
        refuse(
            arm, "acts at the last prompt token and not at generated ones (scope prefill), which no bias does"
        )
    if len({part.scope for part in shifts}) > 1:
        refuse(arm, "has parts that act at different tokens (scope)")
    made = _sum_up(steering, shifts)
    if not made.added.any():
        raise UserError(
            f"export: the arm {arm!r} adds nothing at α = {made.alpha:g}, so its export would be the unsteered model. "
            "Give a larger α, or blocks where its Δ is not zero."
        )
    return made


def _sum_up(steering: Steering, shifts: Sequence[Intervention]) -> ConstantShift:
    """Make one shift of an intervention, or of the parts of a stack with their strengths folded in."""
    first = shifts[0]
    if len(shifts) == 1:
        return ConstantShift(
            subtracted=compose(first, 1)[0].cpu(),
            alpha=float(first.alpha),
            blocks=first.blocks,
            scope=first.scope,
        )
    assert isinstance(steering, Stack)  # several parts
    total = torch.zeros(len(steering.blocks), first.delta.shape[-1])
    for part in shifts:
        rows = [steering.blocks.index(block) for block in part.blocks]
        total[rows] += float(part.alpha) * compose(part, 1)[0].cpu()
    return ConstantShift(subtracted=total, alpha=1.0, blocks=steering.blocks, scope=first.scope)


def refuse(arm: str, why: str) -> NoReturn:
    """Refuse an arm by name; raises `UserError` with the reason and with what can be exported."""
    raise UserError(
        f"export: the arm {arm!r} {why}, so no vector stands for it. What can be exported is {CONSTANT}, at scope "
        "every_step, all or every_position; serve this arm by cmrm itself (docs/python.md)."
    )
