"""The intervention on branches: every fed token of a branch is moved by that branch's own αΔ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from cmrm.capture import SteeringHook, block_output
from cmrm.model import VisionLanguageModel
from cmrm.steering import Intervention, compose, is_felt, measure_length


@dataclass(kw_only=True)
class BranchProof:
    """What αΔ was to do to each branch's state in one pass, and did, by block.

    `moved` is float32 [3, rows, branches]: how far the state was moved, after rounding to the model's dtype; 1 where αΔ
    is too large for that rounding to take it back, else 0; and the length of αΔ in float32.
    """

    moved: dict[int, Tensor] = field(default_factory=dict)


class _SteerBranches(SteeringHook):
    """One fused subtraction: rows and branches that are not to be moved have an αΔ of zero here."""

    def __init__(self, shift: Tensor) -> None:
        self.shift = shift
        self.passes = 0

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        self.passes += 1
        hidden = block_output(output)
        # In float32 where the shift is, and rounded to the model's dtype once.
        steered = (hidden - self.shift.to(hidden.device)).to(hidden.dtype)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered


class _SteerAndMeasure(_SteerBranches):
    def __init__(self, shift: Tensor, block: int, proof: BranchProof) -> None:
        super().__init__(shift)
        self.block, self.proof = block, proof

    def __call__(self, block: nn.Module, args: Any, output: Any) -> Any:
        steered = super().__call__(block, args, output)
        before, shift = block_output(output), self.shift.to(block_output(output).device)
        distance = measure_length(before.float() - block_output(steered).float())
        self.proof.moved[self.block] = torch.stack(
            [distance, is_felt(before, shift).float(), measure_length(shift)]
        )
        return steered


@contextmanager
def steer_branches(vlm: VisionLanguageModel, shifts: Mapping[int, Tensor]) -> Iterator[None]:
    """Subtract αΔ from all that is fed in the body's pass; `shifts` holds by block [rows, branches, hidden].

    Raises `RuntimeError` when a block was not run in the body: never silently unsteered.
    """
    with _hook(vlm, {block: _SteerBranches(shift) for block, shift in shifts.items()}):
        yield


@contextmanager
def steer_and_measure(vlm: VisionLanguageModel, shifts: Mapping[int, Tensor]) -> Iterator[BranchProof]:
    """Subtract as `steer_branches` does, and measure how far the states were moved."""
    proof = BranchProof()
    hooks = {block: _SteerAndMeasure(shift, block, proof) for block, shift in shifts.items()}
    with _hook(vlm, hooks):
        yield proof


@contextmanager
def _hook(vlm: VisionLanguageModel, hooks: Mapping[int, _SteerBranches]) -> Iterator[None]:
    handles = [vlm.blocks[block].register_forward_hook(hook) for block, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    for block, hook in hooks.items():
        if hook.passes == 0:
            raise RuntimeError(f"the intervention never acted: block {block} was not run while it was set")


def make_shifts(ways: Sequence[Intervention | None], *, rows: int, device: torch.device) -> dict[int, Tensor]:
    """What each way subtracts in each row, by block: float32 [rows, ways, hidden], zero where a way leaves a block."""
    shifts: dict[int, Tensor] = {}
    for number, way in enumerate(ways):
        if way is None:
            continue
        strength = torch.as_tensor(way.alpha, dtype=torch.float32).to(device).expand(rows)
        composed = compose(way, rows).to(device) * strength[:, None, None]
        for index, block in enumerate(way.blocks):
            if block not in shifts:
                shifts[block] = torch.zeros(rows, len(ways), composed.shape[-1], device=device)
            shifts[block][:, number] = composed[:, index]
    return shifts
