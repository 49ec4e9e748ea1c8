"""Checks of steering: exact, without effect at α = 0, on every row and step, and equal to a naive reference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from cmrm.capture import block_output, embed
from cmrm.doctor.answering import Steps, agree_in_steps, answer, answer_naively, answer_steered
from cmrm.doctor.patient import STEPS, CheckFailedError, Patient
from cmrm.generation import generate
from cmrm.interventions import Composition, Scope
from cmrm.model import render
from cmrm.steering import Intervention, embed_steered, steer


def check_exactness(patient: Patient) -> str:
    """With each question's own Δ, one block and α = 1, the state at that block is the text-only one (law 1)."""
    errors = []
    for block in patient.blocks:
        own = Intervention(delta=patient.shift[:, [block]], alpha=1.0, blocks=(block,))
        states = embed_steered(patient.vlm, patient.pictured, blocks=(block,), intervention=own)
        text = patient.text_states[:, [block]]
        errors.append(patient.agree(states, text, what=f"block {block}, α = 1, against text only"))
    far = float((patient.pictured_states - patient.text_states).norm() / patient.text_states.norm())
    if far <= patient.tolerance:
        raise CheckFailedError(f"the image hardly moves the states ({far:.1g}), so nothing was tried")
    return f"α = 1 undoes a shift of {far:.2g} (error {max(errors):.1g})"


def check_identity(patient: Patient) -> str:
    """α = 0 gives the same tokens as no intervention (law 2)."""
    none = Intervention(delta=patient.draw_shift(patient.blocks), alpha=0.0, blocks=patient.blocks)
    plain = generate(patient.vlm, patient.pictured, max_new_tokens=STEPS)
    zero = generate(patient.vlm, patient.pictured, max_new_tokens=STEPS, intervention=none)
    if plain.answers != zero.answers:
        raise CheckFailedError("answers under α = 0 differ from those without an intervention")
    return "α = 0 changes no answer"


def check_proof(patient: Patient) -> str:
    """The intervention counts each state it moves, and says by how much (law 3)."""
    vlm, blocks = patient.vlm, patient.blocks
    delta = patient.draw_shift(blocks)
    inputs = render(vlm, patient.pictured)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    # Directly, so that each block moves by its own Δ.
    own = Intervention(delta=delta, alpha=0.5, blocks=blocks, composition="direct")
    with steer(vlm, own, input_ids=ids, attention_mask=mask) as proof:
        answer(vlm, inputs, use_cache=True)
    expected = len(patient.pictured) * STEPS
    for block, length in zip(blocks, (delta.norm(dim=-1) / 2).tolist(), strict=True):
        if proof.acted[block] != expected:
            raise CheckFailedError(f"block {block} was moved {proof.acted[block]} times, not {expected}")
        if abs(proof.distance[block] - length) > patient.tolerance * length:
            raise CheckFailedError(f"block {block} moved by {proof.distance[block]:.3g}, not {length:.3g}")
    return f"{expected} states moved at each of {len(blocks)} blocks, by α‖Δ‖"


def check_every_row(patient: Patient) -> str:
    """Each row of a batch is moved by its own αΔ, and a row with α = 0 is not."""
    block = patient.blocks[0]
    delta = patient.draw_shift((block,)).expand(len(patient.pictured), 1, -1)
    alpha = torch.linspace(0, 1, len(patient.pictured))
    own = Intervention(delta=delta, alpha=alpha, blocks=(block,))
    moved = embed_steered(patient.vlm, patient.pictured, blocks=(block,), intervention=own)
    states = embed(patient.vlm, patient.pictured, blocks=(block,))
    expected = states - alpha.to(states.device)[:, None, None] * delta.to(states.device)
    error = patient.agree(moved, expected, what="rows with strengths of their own")
    return f"each row has its own strength (error {error:.1g})"


def check_every_step(patient: Patient) -> str:
    """Under scope `every_step` the state of each generated token moves by αΔ, under the key-value cache."""
    vlm, block = patient.vlm, patient.blocks[len(patient.blocks) // 2]
    delta = patient.draw_shift((block,))
    inputs = render(vlm, patient.pictured)
    before, after = _Probe(), _Probe()
    # Hooks run in the order they were set, so the two stand on either side of the intervention.
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
        raise CheckFailedError(f"the model ran on {after.widths} tokens, so its cache was not used")
    for step, (one, other) in enumerate(zip(before.states, after.states, strict=True)):
        where = "at the prompt" if step == 0 else f"at generated token {step}"
        patient.agree(other, one - delta.to(one.device), what=f"the state {where} after the intervention")
    return f"moved at the prompt and at {STEPS - 1} generated tokens"


def check_prefill_reference(patient: Patient) -> str:
    """Scope `prefill` answers as a naive, cache-free loop does."""
    return _check_reference(patient, "prefill")


def check_every_step_reference(patient: Patient) -> str:
    """Scope `every_step` answers as a naive, cache-free loop does."""
    return _check_reference(patient, "every_step")


def check_all_reference(patient: Patient) -> str:
    """Scope `all` answers as a naive, cache-free loop does."""
    return _check_reference(patient, "all")


def check_incremental_reference(patient: Patient) -> str:
    """Composition `incremental` answers as a naive, cache-free loop that subtracts what is new in each block's Δ."""
    return _check_reference(patient, "every_step", "incremental")


def check_steered_batch(patient: Patient) -> str:
    """A question's steered answer does not depend on who shares its batch (law 5)."""
    block = patient.blocks[len(patient.blocks) // 2]
    own = Intervention(delta=patient.draw_shift((block,)), alpha=1.0, blocks=(block,))
    together = answer_steered(patient.vlm, patient.pictured, own)
    errors = []
    for row, prompt in enumerate(patient.pictured):
        alone = answer_steered(patient.vlm, [prompt], own)
        mine = Steps(logits=together.logits[[row]], tokens=together.tokens[[row]])
        errors.append(agree_in_steps(patient, mine, alone, what=f"question {row + 1} in a batch"))
    return f"a batch of {len(errors)} equals {len(errors)} alone (error {max(errors):.1g})"


def _check_reference(patient: Patient, scope: Scope, composition: Composition = "direct") -> str:
    vlm, prompt = patient.vlm, patient.pictured[:1]
    blocks = patient.blocks[-3:-1] if len(patient.blocks) > 3 else patient.blocks[-2:]
    delta = patient.draw_shift(blocks)
    moves = dict(zip(blocks, delta, strict=True))
    if composition == "incremental" and len(blocks) > 1:
        moves[blocks[1]] = delta[1] - delta[0]
    reference = answer_naively(vlm, prompt[0], moves=moves, scope=scope)
    own = Intervention(delta=delta, alpha=1.0, blocks=blocks, scope=scope, composition=composition)
    steered = answer_steered(vlm, prompt, own)
    what = f"scope {scope}, {composition}, against a cache-free loop"
    error = agree_in_steps(patient, steered, reference, what=what)
    plain = answer_steered(vlm, prompt, None)
    if torch.equal(plain.logits, steered.logits):
        raise CheckFailedError("steering changed no logit, so nothing was tried")
    return f"equals a cache-free loop (error {error:.1g})"


class _Probe:
    """A hook that keeps the last position's state of each pass, and how many tokens the pass held."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []
        self.widths: list[int] = []

    def __call__(self, _block: nn.Module, _args: Any, output: Any) -> None:
        hidden = block_output(output)
        self.states.append(hidden[:, -1].detach().float().clone())
        self.widths.append(hidden.shape[1])
