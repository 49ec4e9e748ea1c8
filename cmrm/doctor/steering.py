"""Checks of steering: exact at α = 1, no effect at α = 0, applied on every row and step, equal to a naive reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from cmrm.decoding.api import generate
from cmrm.doctor.answering import (
    Move,
    Steps,
    agree_in_steps,
    answer,
    answer_naively,
    answer_plainly,
    answer_steered,
)
from cmrm.doctor.fixture import STEPS, CheckFailedError, ModelFixture
from cmrm.models.block_output import block_output
from cmrm.steering.capture import embed
from cmrm.steering.hooks import embed_steered, steer
from cmrm.steering.intervention import Intervention, Steering
from cmrm.steering.projection import Projection
from cmrm.steering.settings import Composition, Scope


def check_exactness(fixture: ModelFixture) -> str:
    """With each question's own Δ, one block and α = 1, the state at that block is the text prompt's (law 1)."""
    errors = []
    for block in fixture.blocks:
        own = Intervention(delta=fixture.shift[:, [block]], alpha=1.0, blocks=(block,))
        states = _embed_steered(fixture, own)
        text = fixture.text_states[:, [block]]
        errors.append(fixture.agree(states, text, what=f"block {block}, α = 1, against the text prompt"))
    far = float((fixture.pictured_states - fixture.text_states).norm() / fixture.text_states.norm())
    if far <= fixture.tolerance:
        raise CheckFailedError(f"the image hardly moves the states ({far:.1g}), so this check tested nothing")
    return f"α = 1 undoes a shift of {far:.2g} (error {max(errors):.1g})"


def check_identity(fixture: ModelFixture) -> str:
    """α = 0 gives the same tokens as no intervention (law 2)."""
    none = Intervention(delta=fixture.draw_shift(fixture.blocks), alpha=0.0, blocks=fixture.blocks)
    plain = generate(fixture.vlm, fixture.pictured, max_new_tokens=STEPS)
    zero = generate(fixture.vlm, fixture.pictured, max_new_tokens=STEPS, intervention=none)
    if plain.answers != zero.answers:
        raise CheckFailedError("answers under α = 0 differ from those without an intervention")
    return "α = 0 changes no answer"


def check_proof(fixture: ModelFixture) -> str:
    """The steering proof counts each state that the intervention moves, and by how much (law 3)."""
    vlm, blocks = fixture.vlm, fixture.blocks
    delta = fixture.draw_shift(blocks)
    inputs = fixture.render(fixture.pictured)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    # `direct`, so that each block moves by its own Δ.
    own = Intervention(delta=delta, alpha=0.5, blocks=blocks, composition="direct")
    with steer(vlm, own, input_ids=ids, attention_mask=mask) as proof:
        answer(vlm, inputs, use_cache=True)
    expected = len(fixture.pictured) * STEPS
    for block, length in zip(blocks, (delta.norm(dim=-1) / 2).tolist(), strict=True):
        if proof.acted[block] != expected:
            raise CheckFailedError(f"block {block} was moved {proof.acted[block]} times, not {expected}")
        if abs(proof.distance[block] - length) > fixture.tolerance * length:
            raise CheckFailedError(f"block {block} moved by {proof.distance[block]:.3g}, not {length:.3g}")
    return f"{expected} states moved at each of {len(blocks)} blocks, by α‖Δ‖"


def check_every_row(fixture: ModelFixture) -> str:
    """Each row of a batch is moved by its own αΔ, and a row with α = 0 is not."""
    if reason := fixture.explain_no_batches():
        return reason
    block = fixture.blocks[0]
    delta = fixture.draw_shift((block,)).expand(len(fixture.pictured), 1, -1)
    alpha = torch.linspace(0, 1, len(fixture.pictured))
    own = Intervention(delta=delta, alpha=alpha, blocks=(block,))
    moved = _embed_steered(fixture, own)
    states = embed(fixture.vlm, fixture.pictured, blocks=(block,), rendered=fixture.render(fixture.pictured))
    expected = states - alpha.to(states.device)[:, None, None] * delta.to(states.device)
    error = fixture.agree(moved, expected, what="rows with different α")
    return f"each row has its own α (error {error:.1g})"


def check_every_step(fixture: ModelFixture) -> str:
    """Under scope `every_step` and with the KV cache, the state of each generated token moves by αΔ."""
    vlm, block = fixture.vlm, fixture.blocks[len(fixture.blocks) // 2]
    delta = fixture.draw_shift((block,))
    inputs = fixture.render(fixture.pictured)
    before, after = _Probe(), _Probe()
    # Forward hooks run in registration order, so these two run before and after the intervention.
    first = vlm.blocks[block].register_forward_hook(before)
    try:
        with steer(
            vlm,
            Intervention(delta=delta, alpha=1.0, blocks=(block,)),
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
        ):
            last = vlm.blocks[block].register_forward_hook(after)
            try:
                answer(vlm, inputs, use_cache=True)
            finally:
                last.remove()
    finally:
        first.remove()
    if len(after.widths) != STEPS or after.widths[1:] != [1] * (STEPS - 1):
        raise CheckFailedError(f"the model ran on {after.widths} tokens a step, so the KV cache was not used")
    for step, (one, other) in enumerate(zip(before.states, after.states, strict=True)):
        where = "at the prompt" if step == 0 else f"at generated token {step}"
        fixture.agree(other, one - delta.to(one.device), what=f"the state {where} after the intervention")
    return f"moved at the prompt and at {STEPS - 1} generated tokens"


def check_prefill_reference(fixture: ModelFixture) -> str:
    """Scope `prefill` gives the logits of a naive, cache-free loop."""
    return _check_reference(fixture, "prefill")


def check_every_step_reference(fixture: ModelFixture) -> str:
    """Scope `every_step` gives the logits of a naive, cache-free loop."""
    return _check_reference(fixture, "every_step")


def check_all_reference(fixture: ModelFixture) -> str:
    """Scope `all` gives the logits of a naive, cache-free loop."""
    return _check_reference(fixture, "all")


def check_incremental_reference(fixture: ModelFixture) -> str:
    """Composition `incremental` gives the logits of a naive, cache-free loop that subtracts Δ_l − Δ_previous."""
    return _check_reference(fixture, "every_step", "incremental")


def check_projection(fixture: ModelFixture) -> str:
    """A projection at every position gives the logits of a naive, cache-free loop that removes h·v from each state."""
    blocks = fixture.blocks[-3:-1] if len(fixture.blocks) > 3 else fixture.blocks[-2:]
    # Along the states themselves, so that much of them is removed whatever the width.
    towards = fixture.pictured_states[0, list(blocks)] + fixture.draw_shift(blocks)
    unit = towards / towards.norm(dim=-1, keepdim=True)
    own = Projection(directions=unit[:, None].cpu(), blocks=blocks)
    moves = {block: _project(vector) for block, vector in zip(blocks, unit, strict=True)}
    return _compare(fixture, own, moves, own.scope, what="projection")


def check_steered_batch(fixture: ModelFixture) -> str:
    """A question's steered answer does not depend on the other rows of its batch (law 5)."""
    if reason := fixture.explain_no_batches():
        return reason
    block = fixture.blocks[len(fixture.blocks) // 2]
    own = Intervention(delta=fixture.draw_shift((block,)), alpha=1.0, blocks=(block,))
    together = answer_steered(fixture, fixture.pictured, own)
    errors = []
    for row, prompt in enumerate(fixture.pictured):
        alone = answer_steered(fixture, [prompt], own)
        mine = Steps(logits=together.logits[[row]], tokens=together.tokens[[row]])
        errors.append(agree_in_steps(fixture, mine, alone, what=f"question {row + 1} in a batch"))
    return f"a batch of {len(errors)} equals {len(errors)} alone (error {max(errors):.1g})"


def _embed_steered(fixture: ModelFixture, own: Intervention) -> Tensor:
    """Read the image prompts' states at the blocks at which an intervention acts, after it."""
    return embed_steered(
        fixture.vlm,
        fixture.pictured,
        blocks=own.blocks,
        intervention=own,
        rendered=fixture.render(fixture.pictured),
    )


def _check_reference(fixture: ModelFixture, scope: Scope, composition: Composition = "direct") -> str:
    blocks = fixture.blocks[-3:-1] if len(fixture.blocks) > 3 else fixture.blocks[-2:]
    delta = fixture.draw_shift(blocks)
    moved = dict(zip(blocks, delta, strict=True))
    if composition == "incremental" and len(blocks) > 1:
        moved[blocks[1]] = delta[1] - delta[0]
    own = Intervention(delta=delta, alpha=1.0, blocks=blocks, scope=scope, composition=composition)
    moves = {block: _subtract(vector) for block, vector in moved.items()}
    return _compare(fixture, own, moves, scope, what=f"scope {scope}, {composition}")


def _subtract(vector: Tensor) -> Move:
    return lambda states: vector.to(states.device).float().expand_as(states)


def _project(unit: Tensor) -> Move:
    def move(states: Tensor) -> Tensor:
        along = unit.to(states.device)
        return (states @ along)[..., None] * along

    return move


def _compare(
    fixture: ModelFixture, own: Steering, moves: Mapping[int, Move], scope: Scope, *, what: str
) -> str:
    prompt = fixture.pictured[:1]
    reference = answer_naively(fixture, prompt[0], moves=moves, scope=scope)
    steered = answer_steered(fixture, prompt, own)
    what = f"{what}, against a cache-free loop"
    error = agree_in_steps(fixture, steered, reference, what=what)
    plain = answer_plainly(fixture, prompt)
    if torch.equal(plain.logits, steered.logits):
        raise CheckFailedError("steering changed no logit, so this check tested nothing")
    return f"equals a cache-free loop (error {error:.1g})"


class _Probe:
    """A forward hook that records the last position's state and the token count of each pass."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.widths: list[int] = []

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> None:
        hidden = block_output(output)
        self.states.append(hidden[:, -1].detach().float().clone())
        self.widths.append(hidden.shape[1])
