"""Steering hooks: change the outputs of decoder blocks during the forward pass, and prove that this happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import BatchFeature

from cmrm.models.block_output import block_output, replace_states
from cmrm.models.hook_handles import hooked
from cmrm.models.image_tokens import is_medium
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions, render
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import SteeringHook, read_prompt
from cmrm.steering.intervention import Intervention, Steering, compute_shift, list_parts
from cmrm.steering.projection import Projection
from cmrm.steering.proof import SteeringProof, measure_move
from cmrm.steering.settings import Scope


@contextmanager
def steer(
    vlm: VisionLanguageModel, steering: Steering, *, input_ids: Tensor, attention_mask: Tensor
) -> Iterator[SteeringProof]:
    """Steer the chosen blocks while the body runs the model on this one batch (with or without a KV cache).

    `input_ids` and `attention_mask` are the prompt's, int64 [rows, tokens], either padding side. The proof is complete
    when the context ends without an error; hooks are removed in every case. Raises `RuntimeError` if a chosen block
    was never run, or something was to be subtracted and no state moved: never silently unsteered. An αΔ that vanishes
    in rounding to the model's dtype is no error: the proof counts the states that stayed `unmoved`.
    """
    parts = [_Part.of(vlm, part, input_ids, attention_mask) for part in list_parts(steering)]
    span = _Span(rows=len(attention_mask))
    hooks = {
        block: _SteerBlock(block, span.follow([part for part in parts if block in part.blocks]))
        for block in steering.blocks
    }
    proof = SteeringProof()
    with (
        hooked([vlm.decoder.register_forward_pre_hook(span, with_kwargs=True)]),
        hooked(vlm.blocks[block].register_forward_hook(hook) for block, hook in hooks.items()),
    ):
        yield proof
    for block, hook in hooks.items():
        if hook.passes == 0:
            raise RuntimeError(f"the intervention never acted: block {block} was not run inside `steer`")
        meant = any(part.is_meant(block) for part in hook.meeting.parts)
        proof.note(block, hook.measured, acted=hook.acted, meant=meant)


@torch.inference_mode()
def embed_steered(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    blocks: Sequence[int],
    intervention: Steering,
    rendered: BatchFeature | None = None,
) -> Tensor:
    """Extract hidden states as `embed` does, after the intervention: float32 [prompts, blocks, hidden].

    `rendered` are the prompts as `cmrm.models.vlm.render` rendered them, if they were.
    """
    if len(prompts) > 1 and not vlm.family.batches:
        rows = ((prompt, intervention.of_rows([row])) for row, prompt in enumerate(prompts))
        return torch.cat(
            [embed_steered(vlm, [prompt], blocks=blocks, intervention=own) for prompt, own in rows]
        )
    inputs = render(vlm, prompts) if rendered is None else rendered
    with steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]):
        return read_prompt(vlm, inputs, blocks=blocks)


@dataclass(kw_only=True, eq=False)
class _Part:
    """One intervention on one batch: the prompt states it acts on, and the rows it acts on afterwards.

    `shifts` is αΔ, float32 [rows, blocks, hidden], None for a projection. `in_prompt` is bool [rows, tokens], and
    `afterwards` bool [rows].
    """

    blocks: tuple[int, ...]
    shifts: Tensor | None
    projection: Projection | None
    in_prompt: Tensor
    afterwards: Tensor

    @classmethod
    def of(
        cls,
        vlm: VisionLanguageModel,
        part: Intervention | Projection,
        input_ids: Tensor,
        attention_mask: Tensor,
    ) -> _Part:
        rows, device = attention_mask.shape[0], attention_mask.device
        strength = torch.as_tensor(part.alpha, dtype=torch.float32).to(device).expand(rows)
        in_prompt, afterwards = _choose_positions(vlm, part.scope, strength > 0, input_ids, attention_mask)
        return cls(
            blocks=part.blocks,
            shifts=compute_shift(part, rows, device) if isinstance(part, Intervention) else None,
            projection=part if isinstance(part, Projection) else None,
            in_prompt=in_prompt,
            afterwards=afterwards,
        )

    def is_meant(self, block: int) -> bool:
        """Whether αΔ is not zero at a block; a projection may have nothing to subtract."""
        return self.shifts is not None and bool(self.shifts[:, self.blocks.index(block)].any())

    def compute_change(self, states: Tensor, rows: Tensor, block: int) -> Tensor:
        """Compute what is subtracted from states [states, hidden] of these rows, float32."""
        if self.projection is not None:
            return self.projection.compute_change(states, block)
        assert self.shifts is not None  # one of the two is given
        self.shifts = self.shifts.to(states.device)
        return self.shifts[rows, self.blocks.index(block)]


@dataclass(kw_only=True, eq=False)
class _Meeting:
    """Parts that act at the same blocks, and the states of the current pass that any of them steers.

    `rows` and `columns` are int64 [states]; `acts` says which part steers which state, bool [parts, states].
    """

    parts: Sequence[_Part]
    rows: Tensor
    columns: Tensor
    acts: Tensor


class _Span:
    """Finds the states of a forward pass to steer, before the blocks run."""

    def __init__(self, *, rows: int) -> None:
        self.rows = rows
        self._meetings: list[_Meeting] = []

    def follow(self, parts: Sequence[_Part]) -> _Meeting:
        """The states of these parts, kept up to date; one object for all blocks at which the same parts act."""
        for known in self._meetings:
            if known.parts == parts:
                return known
        none = torch.empty(0, dtype=torch.long)
        new = _Meeting(parts=parts, rows=none, columns=none, acts=torch.empty(len(parts), 0).bool())
        self._meetings.append(new)
        return new

    def __call__(self, _decoder: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook of the decoder: find the pass's offset in the sequence from its KV cache."""
        tokens = kwargs.get("inputs_embeds")
        tokens = tokens if tokens is not None else kwargs.get("input_ids", args[0] if args else None)
        if tokens is None or tokens.shape[0] != self.rows:
            shape = None if tokens is None else tuple(tokens.shape)
            raise ValueError(f"steering was set up for {self.rows} rows; the model was given {shape}")
        cache = kwargs.get("past_key_values")
        start = int(cache.get_seq_length()) if cache is not None else 0
        for meeting in self._meetings:
            here = torch.stack([_cut(part, start, tokens.shape[1]) for part in meeting.parts])
            # The one synchronization with the device in a pass.
            meeting.rows, meeting.columns = here.any(dim=0).nonzero(as_tuple=True)
            meeting.acts = here[:, meeting.rows, meeting.columns]


def _cut(part: _Part, start: int, tokens: int) -> Tensor:
    """The states of a pass that a part steers, bool [rows, tokens]; `start` is the pass's offset in the sequence."""
    in_prompt = part.in_prompt[:, start : start + tokens]
    after = part.afterwards[:, None].expand(-1, tokens - in_prompt.shape[1])
    return torch.cat([in_prompt, after], dim=1)


class _SteerBlock(SteeringHook):
    """Changes one block's output by all parts that act there, one after the other, rounded once."""

    def __init__(self, block: int, meeting: _Meeting) -> None:
        self.block, self.meeting = block, meeting
        self.passes, self.acted = 0, 0
        self.measured: Tensor | None = None

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        self.passes += 1
        if self.meeting.rows.numel() == 0:
            return None
        hidden = block_output(output)
        rows, columns = self.meeting.rows.to(hidden.device), self.meeting.columns.to(hidden.device)
        before = hidden[rows, columns]
        # Computed in float32 and rounded to the model's dtype once.
        change = torch.zeros_like(before, dtype=torch.float32)
        for part, acts in zip(self.meeting.parts, self.meeting.acts.to(hidden.device), strict=True):
            more = part.compute_change(before.float() - change, rows, self.block)
            change = torch.where(acts[:, None], change + more, change)
        after = (before.float() - change).to(hidden.dtype)
        if self.measured is None:
            # Measured in the first pass that acts; measuring at each step would slow down every token.
            self.measured = measure_move(before, after, change)
        self.acted += rows.numel()
        steered = hidden.index_put((rows, columns), after)
        return replace_states(output, steered)


def _choose_positions(
    vlm: VisionLanguageModel, scope: Scope, steered: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Choose by scope the prompt states to steer, bool [rows, tokens], and the rows to steer after, bool [rows]."""
    if scope == "every_position":
        in_prompt = attention_mask.bool()
    elif scope == "all":
        in_prompt = attention_mask.bool() & ~is_medium(vlm, input_ids)
    else:
        columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        in_prompt = columns == last_prompt_positions(attention_mask)[:, None]
    afterwards = steered if scope != "prefill" else torch.zeros_like(steered)
    return in_prompt & steered[:, None], afterwards


@dataclass(kw_only=True)
class BranchSteering:
    """What each branch of a tree subtracts in a pass.

    `shifts` is αΔ by block, float32 [rows, branches, hidden], zero for a branch that does not steer a block.
    `projections` are those of all arms, each with the branches that it acts on, bool [rows, branches].
    """

    shifts: Mapping[int, Tensor]
    projections: Sequence[tuple[Projection, Tensor]] = ()

    @property
    def blocks(self) -> list[int]:
        """The blocks at which any branch is steered."""
        return sorted({*self.shifts, *(block for one, _ in self.projections for block in one.blocks)})

    def compute_change(self, states: Tensor, block: int) -> Tensor:
        """Compute what is subtracted from states [rows, branches, hidden] at a block, float32."""
        shift = self.shifts.get(block)
        change = torch.zeros_like(states, dtype=torch.float32) if shift is None else shift.to(states.device)
        for projection, acts in self.projections:
            if block in projection.blocks:
                more = projection.compute_change(states.float() - change, block)
                change = torch.where(acts[..., None].to(states.device), change + more, change)
        return change


class _SteerBranches(SteeringHook):
    """Steers all branches at one block in one go."""

    def __init__(self, steering: BranchSteering, block: int) -> None:
        self.steering, self.block = steering, block
        self.passes = 0

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        self.passes += 1
        hidden = block_output(output)
        steered = self.subtract(hidden, self.steering.compute_change(hidden, self.block))
        return replace_states(output, steered)

    def subtract(self, hidden: Tensor, change: Tensor) -> Tensor:
        """Subtract in float32, the dtype of the change, and round to the model's dtype once."""
        return (hidden - change).to(hidden.dtype)


class _SteerAndMeasure(_SteerBranches):
    def __init__(self, steering: BranchSteering, block: int, measured: dict[int, Tensor]) -> None:
        super().__init__(steering, block)
        self.measured = measured

    def subtract(self, hidden: Tensor, change: Tensor) -> Tensor:
        steered = super().subtract(hidden, change)
        self.measured[self.block] = measure_move(hidden, steered, change)
        return steered


@contextmanager
def steer_branches(vlm: VisionLanguageModel, steering: BranchSteering) -> Iterator[None]:
    """Steer all tokens of the body's forward pass, one of each branch.

    Raises `RuntimeError` if a block was not run in the body: never silently unsteered.
    """
    with _hook(vlm, {block: _SteerBranches(steering, block) for block in steering.blocks}):
        yield


@contextmanager
def steer_and_measure(vlm: VisionLanguageModel, steering: BranchSteering) -> Iterator[Mapping[int, Tensor]]:
    """Steer as `steer_branches` does; yields what `measure_move` finds, by block [3, rows, branches].

    It stays on the device, where reading it would be a synchronization; `SteeringProof` is made of it on the host.
    """
    measured: dict[int, Tensor] = {}
    with _hook(vlm, {block: _SteerAndMeasure(steering, block, measured) for block in steering.blocks}):
        yield measured


@contextmanager
def _hook(vlm: VisionLanguageModel, hooks: Mapping[int, _SteerBranches]) -> Iterator[None]:
    with hooked(vlm.blocks[block].register_forward_hook(hook) for block, hook in hooks.items()):
        yield
    for block, hook in hooks.items():
        if hook.passes == 0:
            raise RuntimeError(f"the intervention never acted: block {block} was not run while it was set")


def make_shifts(
    arms: Sequence[Sequence[Intervention]], *, rows: int, device: torch.device
) -> dict[int, Tensor]:
    """Compute αΔ of each arm and row, by block: float32 [rows, arms, hidden], the sum over each arm's interventions."""
    shifts: dict[int, Tensor] = {}
    for number, arm in enumerate(arms):
        for part in arm:
            shift = compute_shift(part, rows, device)
            for index, block in enumerate(part.blocks):
                if block not in shifts:
                    shifts[block] = torch.zeros(rows, len(arms), shift.shape[-1], device=device)
                shifts[block][:, number] += shift[:, index]
    return shifts
