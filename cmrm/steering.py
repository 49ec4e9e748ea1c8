"""The intervention: subtract αΔ from the states while the model answers, and prove that it happened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import Tensor, nn

from cmrm.capture import SteeringHook, block_output, read_prompt
from cmrm.conditions import Prompt
from cmrm.errors import UserError
from cmrm.interventions import DEFAULT_COMPOSITION, DEFAULT_SCOPE, Composition, Scope
from cmrm.model import VisionLanguageModel, last_prompt_positions, render


@dataclass(frozen=True, kw_only=True)
class Intervention:
    """What is done to the states of one batch.

    `delta` is [blocks, hidden] for all rows or [rows, blocks, hidden] with one Δ a row; `alpha` is the strength, a
    number or a tensor [rows]. `blocks` ascend. Scopes and compositions as in `DESIGN.md` §1.
    Raises `UserError` for a negative or non-finite strength, or unknown words; `ValueError` for shapes that do not fit.
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
        """Whether a row of the batch is moved at all: not where its strength is zero."""
        alpha = torch.as_tensor(self.alpha)
        return bool((alpha[row] if alpha.dim() else alpha) > 0)

    def of_rows(self, rows: Sequence[int]) -> Intervention:
        """The same intervention on some rows of the batch."""
        alpha = self.alpha
        return replace(
            self,
            delta=self.delta[list(rows)] if self.delta.dim() == 3 else self.delta,
            alpha=alpha[list(rows)] if isinstance(alpha, Tensor) and alpha.dim() == 1 else alpha,
        )


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


@dataclass(kw_only=True)
class SteeringProof:
    """Per block: how many (row, token) states αΔ was subtracted from, and how far it was to move them and did.

    Filled while the model runs. The others are of the first pass that acted, the prompt's: `asked` is the mean length
    of αΔ in float32, `distance` the mean distance of the states as they were and became, after rounding to the model's
    dtype, and `unmoved` counts the states that stayed as they were though their αΔ is not zero: an α with no effect at
    this precision.
    """

    acted: dict[int, int] = field(default_factory=dict)
    asked: dict[int, float] = field(default_factory=dict)
    distance: dict[int, float] = field(default_factory=dict)
    unmoved: dict[int, int] = field(default_factory=dict)


class _Span:
    """Which (row, column) states of the current forward pass are to be moved; set before the blocks run."""

    def __init__(self, acts_in_prompt: Tensor, acts_afterwards: Tensor) -> None:
        self.acts_in_prompt, self.acts_afterwards = acts_in_prompt, acts_afterwards
        self.rows = self.columns = torch.empty(0, dtype=torch.long)

    def __call__(self, _decoder: nn.Module, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Forward pre-hook of the decoder: find the pass's place in the sequence from its key-value cache."""
        tokens = kwargs.get("inputs_embeds")
        tokens = tokens if tokens is not None else kwargs.get("input_ids", args[0] if args else None)
        if tokens is None or tokens.shape[0] != self.acts_in_prompt.shape[0]:
            shape = None if tokens is None else tuple(tokens.shape)
            raise ValueError(
                f"steering was set up for {self.acts_in_prompt.shape[0]} rows; the model was given {shape}"
            )
        cache = kwargs.get("past_key_values")
        start = int(cache.get_seq_length()) if cache is not None else 0
        in_prompt = self.acts_in_prompt[:, start : start + tokens.shape[1]]
        after = self.acts_afterwards[:, None].expand(-1, tokens.shape[1] - in_prompt.shape[1])
        self.rows, self.columns = torch.cat([in_prompt, after], dim=1).nonzero(as_tuple=True)


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """What αΔ was to do to each of some states and did; on the device, since reading it would wait for the pass."""

    asked: Tensor
    distance: Tensor
    unmoved: Tensor
    failed: Tensor

    @classmethod
    def of(cls, before: Tensor, after: Tensor, shift: Tensor) -> _Measured:
        still = (before == after).all(dim=-1)
        return cls(
            asked=measure_length(shift).mean(),
            distance=measure_length(before.float() - after.float()).mean(),
            unmoved=(still & (shift != 0).any(dim=-1)).sum(),
            failed=(still & is_felt(before, shift)).any(),
        )

    def read(self) -> list[float]:
        """All four, in this order, by one copy from the device."""
        return torch.stack([self.asked, self.distance, self.unmoved.float(), self.failed.float()]).tolist()


class _SteerBlock(SteeringHook):
    def __init__(self, shift: Tensor, span: _Span) -> None:
        self.shift, self.span = shift, span
        self.passes, self.acted = 0, 0
        self.measured: _Measured | None = None

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> Any:
        self.passes += 1
        rows, columns = self.span.rows, self.span.columns
        if rows.numel() == 0:
            return None
        hidden = block_output(output)
        self.shift = self.shift.to(hidden.device)
        rows, columns = rows.to(hidden.device), columns.to(hidden.device)
        before = hidden[rows, columns]
        # The shift is in float32, and so is the difference: it is rounded to the model's dtype once.
        after = (before - self.shift[rows]).to(hidden.dtype)
        if self.measured is None:
            # Measured in the first pass that acts; a reading on each step would cost every token.
            self.measured = _Measured.of(before, after, self.shift[rows])
        self.acted += rows.numel()
        steered = hidden.index_put((rows, columns), after)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered


@contextmanager
def steer(
    vlm: VisionLanguageModel, intervention: Intervention, *, input_ids: Tensor, attention_mask: Tensor
) -> Iterator[SteeringProof]:
    """Subtract αΔ at the chosen blocks while the body runs the model on this one batch (with or without a cache).

    `input_ids` and `attention_mask` are the prompt's, int64 [rows, tokens], either padding side. The proof is complete
    when the context ends without an error; hooks are removed in every case. Raises `RuntimeError` when a chosen block
    was never run, or αΔ is not zero and no state moved: never silently unsteered. An αΔ so small that rounding to the
    model's dtype takes it back is no error: the proof counts the states that it left `unmoved`.
    """
    rows = attention_mask.shape[0]
    strength = torch.as_tensor(intervention.alpha, dtype=torch.float32).to(attention_mask.device).expand(rows)
    shifts = compose(intervention, rows).to(attention_mask.device) * strength[:, None, None]
    span = _Span(*_choose_positions(vlm, intervention.scope, strength > 0, input_ids, attention_mask))
    hooks = {block: _SteerBlock(shifts[:, index], span) for index, block in enumerate(intervention.blocks)}
    handles = [vlm.decoder.register_forward_pre_hook(span, with_kwargs=True)]
    handles += [vlm.blocks[block].register_forward_hook(hook) for block, hook in hooks.items()]
    proof = SteeringProof()
    try:
        yield proof
    finally:
        for handle in handles:
            handle.remove()
    for index, (block, hook) in enumerate(hooks.items()):
        if hook.passes == 0:
            raise RuntimeError(f"the intervention never acted: block {block} was not run inside `steer`")
        proof.acted[block] = hook.acted
        _note(proof, block, hook.measured, meant=bool(shifts[:, index].any()))


def _note(proof: SteeringProof, block: int, measured: _Measured | None, *, meant: bool) -> None:
    asked, distance, unmoved, failed = (0.0, 0.0, 0.0, meant) if measured is None else measured.read()
    proof.asked[block], proof.distance[block], proof.unmoved[block] = asked, distance, int(unmoved)
    if failed:
        raise RuntimeError(
            f"the intervention never acted: no state moved at block {block}, though αΔ is not zero"
        )


@torch.inference_mode()
def embed_steered(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], *, blocks: Sequence[int], intervention: Intervention
) -> Tensor:
    """States as `embed` reads them, after the intervention acted: float32 [prompts, blocks, hidden]."""
    inputs = render(vlm, prompts)
    with steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]):
        return read_prompt(vlm, inputs, blocks=blocks)


def compose(intervention: Intervention, rows: int) -> Tensor:
    """What each block subtracts per unit of strength: float32 [rows, blocks, hidden]."""
    delta = intervention.delta.float()
    delta = delta.expand(rows, -1, -1)
    if delta.shape[0] != rows:
        raise ValueError(f"Δ holds {delta.shape[0]} rows for a batch of {rows}")
    if intervention.composition == "direct":
        return delta
    # A shift made at one block is carried along the residual stream, so later blocks add just what is new in theirs.
    return torch.cat([delta[:, :1], delta[:, 1:] - delta[:, :-1]], dim=1)


def is_felt(states: Tensor, shift: Tensor) -> Tensor:
    """Whether some number of αΔ is too large for rounding to the states' dtype to take it back: bool, one a state."""
    kind = torch.finfo(states.dtype)
    # Neighbouring numbers lie no further apart than this.
    apart = (states.abs().float() * kind.eps).clamp(min=kind.tiny)
    return (shift.abs() > apart).any(dim=-1)


def measure_length(vectors: Tensor) -> Tensor:
    """Euclidean lengths of vectors in float32, of very small ones too, whose squares would come to nothing."""
    kind = torch.finfo(torch.float32)
    largest = vectors.float().abs().amax(dim=-1, keepdim=True)
    return (vectors.float() / largest.clamp(kind.tiny, kind.max)).norm(dim=-1) * largest[..., 0]


def _choose_positions(
    vlm: VisionLanguageModel, scope: Scope, steered: Tensor, input_ids: Tensor, attention_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Which prompt states, bool [rows, tokens], and whose later states, bool [rows], the scope moves."""
    if scope == "all":
        in_prompt = attention_mask.bool() & (input_ids != vlm.image_token_id)
    else:
        columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        in_prompt = columns == last_prompt_positions(attention_mask)[:, None]
    afterwards = steered if scope != "prefill" else torch.zeros_like(steered)
    return in_prompt & steered[:, None], afterwards
