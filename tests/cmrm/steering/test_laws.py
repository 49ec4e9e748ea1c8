"""The laws of the method (`DESIGN.md` §2), one test or more each, on a random LLaVA."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from cmrm.decoding.api import generate
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.requests import Answers
from cmrm.errors import UserError
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, last_prompt_positions, render
from cmrm.prompts.conditions import CONDITIONS, MEANINGLESS, Prompt, make_meaningless, show
from cmrm.prompts.meaningless_images import noise_image
from cmrm.prompts.sample import Sample
from cmrm.steering.capture import SteeringHook, capture_states, embed, read_prompt
from cmrm.steering.hooks import BranchSteering, embed_steered, make_shifts, steer, steer_and_measure
from cmrm.steering.intervention import Intervention
from cmrm.steering.proof import SteeringProof
from cmrm.steering.shift import measure_sample_shift

ALL_BLOCKS = (0, 1, 2, 3)
Prompts = Sequence[Prompt]


def steered_states(
    vlm: VisionLanguageModel, prompts: Prompts, intervention: Intervention, blocks: tuple[int, ...]
) -> Tensor:
    """Hidden states [rows, blocks, hidden] after the intervention in one forward pass."""
    inputs = render(vlm, prompts)
    mask = inputs["attention_mask"]
    with (
        torch.inference_mode(),
        steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=mask),
        capture_states(vlm, blocks=blocks, positions=last_prompt_positions(mask)) as captured,
    ):
        vlm.model(**inputs)
    return captured.stack(blocks)


def prove(vlm: VisionLanguageModel, prompts: Prompts, intervention: Intervention) -> SteeringProof:
    """The proof of one forward pass over the prompts."""
    inputs = render(vlm, prompts)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.inference_mode(), steer(vlm, intervention, input_ids=ids, attention_mask=mask) as proof:
        # As `embed` does, so that its states are those that were moved, to the bit.
        read_prompt(vlm, inputs, blocks=intervention.blocks)
    return proof


@pytest.mark.parametrize("block", ALL_BLOCKS)
@pytest.mark.parametrize("scope", ["prefill", "every_step"])
def test_exactness_sample_level_at_full_strength_gives_the_text_state(
    vlm: VisionLanguageModel, blank_prompts: Prompts, text_prompts: Prompts, block: int, scope: str
) -> None:
    delta = measure_sample_shift(vlm, with_image=blank_prompts, text_only=text_prompts, blocks=[block])
    intervention = Intervention(delta=delta, alpha=1.0, blocks=(block,), scope=scope)  # type: ignore[arg-type]
    steered = steered_states(vlm, blank_prompts, intervention, (block,))
    torch.testing.assert_close(steered, embed(vlm, text_prompts, blocks=[block]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("composition", ["direct", "incremental"])
def test_compositions_equal_a_hand_edited_reference(
    vlm: VisionLanguageModel, noise_prompts: Prompts, composition: str
) -> None:
    """`direct` subtracts Δ_l at each block; `incremental` subtracts what is new in it since the block before."""
    first, second = torch.randn(2, vlm.hidden_size, generator=torch.Generator().manual_seed(0))
    taken = {1: first, 3: second if composition == "direct" else second - first}
    inputs = render(vlm, noise_prompts)
    last = last_prompt_positions(inputs["attention_mask"])

    def edit(shift: Tensor) -> Callable[..., Tensor]:
        def hook(module: object, args: object, output: Tensor) -> Tensor:
            moved = output.clone()
            moved[torch.arange(len(last)), last] -= 0.5 * shift
            return moved

        return hook

    handles = [vlm.blocks[block].register_forward_hook(edit(shift)) for block, shift in taken.items()]
    try:
        with torch.inference_mode(), capture_states(vlm, blocks=ALL_BLOCKS, positions=last) as expected:
            vlm.model(**inputs)
    finally:
        for handle in handles:
            handle.remove()
    delta = torch.stack([first, second])
    intervention = Intervention(
        delta=delta, alpha=0.5, blocks=(1, 3), scope="prefill", composition=composition
    )  # type: ignore[arg-type]
    steered = steered_states(vlm, noise_prompts, intervention, ALL_BLOCKS)
    torch.testing.assert_close(steered, expected.stack(ALL_BLOCKS), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["prefill", "every_step", "all"])
@pytest.mark.parametrize("composition", ["direct", "incremental"])
def test_identity_alpha_zero_gives_the_same_tokens_as_no_intervention(
    vlm: VisionLanguageModel, noise_prompts: Prompts, scope: str, composition: str
) -> None:
    plain = generate(vlm, noise_prompts, max_new_tokens=8)
    delta = torch.full((4, vlm.hidden_size), 9.0)
    still = Intervention(delta=delta, alpha=0.0, blocks=ALL_BLOCKS, scope=scope, composition=composition)  # type: ignore[arg-type]
    assert generate(vlm, noise_prompts, max_new_tokens=8, intervention=still).answers == plain.answers
    pushed = Intervention(delta=delta, alpha=1.0, blocks=ALL_BLOCKS, scope=scope, composition=composition)  # type: ignore[arg-type]
    assert generate(vlm, noise_prompts, max_new_tokens=8, intervention=pushed).answers != plain.answers


def test_proof_counts_each_block_and_step_and_measures_the_distance(
    vlm: VisionLanguageModel, noise_prompts: Prompts
) -> None:
    delta = torch.zeros(2, vlm.hidden_size)
    delta[0, 0], delta[1, 1] = 3.0, 5.0
    intervention = Intervention(delta=delta, alpha=0.5, blocks=(1, 3), composition="direct")
    answers = generate(vlm, noise_prompts, max_new_tokens=6, intervention=intervention)
    longest = max(answer.tokens for answer in answers.answers)
    proof = answers.proof
    assert proof is not None
    # The prompt's last token gives the first new token, so one pass fewer than tokens feeds a generated one.
    assert proof.acted == {1: 3 * longest, 3: 3 * longest}
    assert proof.distance == pytest.approx({1: 1.5, 3: 2.5}, rel=1e-4)


def test_proof_prefill_scope_acts_once_a_row(vlm: VisionLanguageModel, noise_prompts: Prompts) -> None:
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(2,), scope="prefill")
    proof = generate(vlm, noise_prompts, max_new_tokens=6, intervention=intervention).proof
    assert proof is not None
    assert proof.acted == {2: 3}


def test_scope_all_moves_every_text_position_and_no_image_position(
    vlm: VisionLanguageModel, noise_prompts: Prompts
) -> None:
    inputs = render(vlm, noise_prompts)
    text_tokens = int((inputs["attention_mask"].bool() & (inputs["input_ids"] != vlm.image_token_id)).sum())
    assert int((inputs["input_ids"] == vlm.image_token_id).sum()) == 3 * 16
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(2,), scope="all")
    proof = generate(vlm, noise_prompts, max_new_tokens=1, intervention=intervention).proof
    assert proof is not None
    assert proof.acted == {2: text_tokens}


def test_an_intervention_that_never_acts_raises(vlm: VisionLanguageModel, text_prompts: Prompts) -> None:
    inputs = render(vlm, text_prompts)
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(0,))
    arguments = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    with pytest.raises(RuntimeError, match="never acted: block 0"), steer(vlm, intervention, **arguments):
        pass


def test_an_intervention_that_finds_no_state_to_move_raises(
    vlm: VisionLanguageModel, text_prompts: Prompts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmrm.steering.hooks._Span.__call__", lambda *_: None)
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(0,))
    with pytest.raises(RuntimeError, match="no state moved at block 0"):
        generate_apart(vlm, text_prompts, max_new_tokens=2, intervention=intervention)


@pytest.mark.parametrize("ask", [generate, generate_apart])
def test_a_strength_without_effect_at_this_precision_gives_the_plain_answers(
    llava_folder: Path, text_prompts: Prompts, ask: Callable[..., Answers]
) -> None:
    """In bfloat16 an αΔ below 1/512 of each number is rounded away: 1e-4 of a Δ as long as the states are."""
    vlm = load_model(resolve_model(str(llava_folder)), dtype="bfloat16", device="cpu")
    state = embed(vlm, text_prompts, blocks=[0])[:, 0]
    own = Intervention(delta=state[:, None], alpha=1e-4, blocks=(0,))
    plain, found = (
        ask(vlm, text_prompts, max_new_tokens=6, intervention=intervention) for intervention in (None, own)
    )
    assert found.answers == plain.answers
    assert found.proof is not None
    assert found.proof.distance == {0: 0.0}
    assert sum(found.proof.acted.values()) > 0
    assert found.proof.unmoved == {0: len(text_prompts)}
    assert found.proof.asked == pytest.approx({0: 1e-4 * float(state.norm(dim=-1).mean())}, rel=1e-4)


def test_the_proof_counts_states_that_a_strength_left_as_they_were(
    vlm: VisionLanguageModel, text_prompts: Prompts
) -> None:
    delta = torch.zeros(len(text_prompts), 1, vlm.hidden_size)
    delta[1, 0, 0], delta[2, 0, 0] = 1e-30, 2.0
    proof = prove(vlm, text_prompts, Intervention(delta=delta, alpha=0.5, blocks=(0,)))
    # The first has no Δ to be moved by, the second too small a one, and the third moves by half of 2.
    assert proof.unmoved == {0: 1}
    assert proof.asked == pytest.approx({0: 1 / 3})
    assert proof.distance == pytest.approx({0: 1 / 3}, rel=1e-5)


@pytest.mark.parametrize("length", [1e-30, 1e-9, 1.0, 1e30])
def test_the_proof_holds_the_distance_asked_for_however_short(
    vlm: VisionLanguageModel, text_prompts: Prompts, length: float
) -> None:
    delta = length * torch.randn(1, vlm.hidden_size, generator=torch.Generator().manual_seed(3))
    proof = prove(vlm, text_prompts, Intervention(delta=delta, alpha=0.25, blocks=(0,)))
    assert proof.asked == pytest.approx({0: 0.25 * np.linalg.norm(delta.double().numpy())}, rel=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("alpha", [1.0, 0.1, 0.01])
def test_alpha_delta_is_subtracted_in_single_precision_and_rounded_once(
    llava_folder: Path, text_prompts: Prompts, dtype: str, alpha: float
) -> None:
    vlm = load_model(resolve_model(str(llava_folder)), dtype=dtype, device="cpu")
    kind = vlm.model.dtype
    # In a pass over all blocks and tokens, like the steered one: other passes round otherwise.
    plain = read_prompt(vlm, render(vlm, text_prompts), blocks=[1])[:, 0]
    delta = plain[:, None].roll(1, dims=2) / 3
    own = Intervention(delta=delta, alpha=alpha, blocks=(1,))
    expected = (plain - torch.tensor(alpha) * delta[:, 0]).to(kind).float()
    assert not torch.equal(expected, plain)
    assert torch.equal(embed_steered(vlm, text_prompts, blocks=[1], intervention=own)[:, 0], expected)
    asked = np.linalg.norm(alpha * delta[:, 0].double().numpy(), axis=-1)
    moved = np.linalg.norm((plain.double() - expected.double()).numpy(), axis=-1)
    proof = prove(vlm, text_prompts, own)
    assert proof.asked == pytest.approx({1: asked.mean()}, rel=1e-5)
    assert proof.distance == pytest.approx({1: moved.mean()}, rel=1e-5)
    # As branches move the same states: one row of one token each.
    states = plain.to(kind)[:, None]
    shifts = make_shifts([[own]], rows=len(text_prompts), device=vlm.device)
    block = torch.nn.Identity()
    alone = replace(vlm, blocks=(None, block))  # type: ignore[arg-type]
    with steer_and_measure(alone, BranchSteering(shifts=shifts)) as found:
        assert torch.equal(block(states)[:, 0].float(), expected)
    assert found[1][2, :, 0].numpy() == pytest.approx(asked, rel=1e-5)
    assert found[1][0, :, 0].numpy() == pytest.approx(moved, rel=1e-5)


def test_an_intervention_set_up_for_another_batch_raises(
    vlm: VisionLanguageModel, text_prompts: Prompts
) -> None:
    inputs, fewer = render(vlm, text_prompts), render(vlm, text_prompts[:2])
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(0,))
    with (
        pytest.raises(ValueError, match="set up for 2 rows"),
        steer(vlm, intervention, input_ids=fewer["input_ids"], attention_mask=fewer["attention_mask"]),
    ):
        vlm.model(**inputs)


def test_hooks_are_gone_after_an_error_inside(vlm: VisionLanguageModel, text_prompts: Prompts) -> None:
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(0,))
    inputs = render(vlm, text_prompts)
    with (
        pytest.raises(KeyError),
        steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]),
        capture_states(vlm, blocks=[0], positions=last_prompt_positions(inputs["attention_mask"])),
    ):
        raise KeyError
    hooks = [hook for module in vlm.model.modules() for hook in module._forward_hooks.values()]
    assert not any(type(hook).__module__.startswith("cmrm") for hook in hooks)
    assert not vlm.decoder._forward_pre_hooks


# Under `marks` and `filler` the prompt holds other text on purpose (`tests/conformance/test_control_places.py`).
@pytest.mark.parametrize("condition", [*sorted({*MEANINGLESS} - {"marks", "filler"}), "image"])
def test_same_template_image_and_text_prompt_differ_by_the_image_tokens_alone(
    vlm: VisionLanguageModel, condition: str
) -> None:
    sample = Sample(id="1", dataset="d", question="what is it?", harmful=True, image="a.png", caption="a dog")
    meaningless = make_meaningless(size=32, color=(255, 255, 255), seed=0)
    own = noise_image(size=40, seed=3)
    prompts = {
        name: show(
            sample,
            name,
            open_image=lambda _: own,
            open_media=lambda _: own,
            meaningless=meaningless,
            system="Be kind.",
        )
        for name in CONDITIONS
    }
    text, shown = (
        vlm.processor.tokenizer.decode(render(vlm, [prompts[name]])["input_ids"][0])
        for name in ("query", condition)
    )
    assert shown.replace("<image>" * 16 + "\n", "") == text
    assert "<image>" not in text
    assert "Be kind." in text


def test_batch_and_padding_do_not_change_states(vlm: VisionLanguageModel, noise_prompts: Prompts) -> None:
    together = embed(vlm, noise_prompts, blocks=ALL_BLOCKS)
    alone = torch.cat([embed(vlm, [prompt], blocks=ALL_BLOCKS) for prompt in noise_prompts])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    tokenizer = vlm.processor.tokenizer
    tokenizer.padding_side = "right"
    try:
        right = embed(vlm, noise_prompts, blocks=ALL_BLOCKS)
    finally:
        tokenizer.padding_side = "left"
    torch.testing.assert_close(right, alone, atol=1e-4, rtol=1e-4)


def test_batch_does_not_change_steered_answers(
    vlm: VisionLanguageModel, noise_prompts: Prompts, blank_prompts: Prompts, text_prompts: Prompts
) -> None:
    delta = measure_sample_shift(vlm, with_image=blank_prompts, text_only=text_prompts, blocks=(1, 2))
    alpha = torch.tensor([0.0, 0.5, 1.0])
    together = generate(
        vlm,
        noise_prompts,
        max_new_tokens=8,
        intervention=Intervention(delta=delta, alpha=alpha, blocks=(1, 2)),
    )
    for row, prompt in enumerate(noise_prompts):
        own = Intervention(delta=delta[row], alpha=float(alpha[row]), blocks=(1, 2))
        alone = generate(vlm, [prompt], max_new_tokens=8, intervention=own)
        assert alone.answers == together.answers[row : row + 1]


@pytest.mark.parametrize("scope", ["prefill", "every_step", "all"])
def test_cached_generation_under_steering_equals_a_cache_free_reference(
    vlm: VisionLanguageModel, noise_prompts: Prompts, scope: str
) -> None:
    """The reference re-runs the whole sequence each step and edits block outputs by hand."""
    prompt, steps = noise_prompts[1], 6
    delta = 4 * torch.randn(vlm.hidden_size, generator=torch.Generator().manual_seed(1))
    inputs = dict(render(vlm, [prompt]))
    length = inputs["input_ids"].shape[1]

    def edit(module: object, args: object, output: Tensor) -> Tensor:
        moved = output.clone()
        last = {"prefill": slice(length - 1, length), "every_step": slice(length - 1, None)}
        if scope == "all":
            moved[0, inputs["input_ids"][0] != vlm.image_token_id] -= 0.7 * delta
        else:
            moved[0, last[scope]] -= 0.7 * delta
        return moved

    handle = vlm.blocks[2].register_forward_hook(edit)
    try:
        with torch.inference_mode():
            for _ in range(steps):
                logits = vlm.model(**inputs, use_cache=False).logits[:, -1]
                inputs["input_ids"] = torch.cat([inputs["input_ids"], logits.argmax(-1, keepdim=True)], dim=1)
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    finally:
        handle.remove()
    expected = vlm.processor.tokenizer.decode(
        inputs["input_ids"][0, length:], skip_special_tokens=True
    ).strip()
    intervention = Intervention(delta=delta[None], alpha=0.7, blocks=(2,), scope=scope)  # type: ignore[arg-type]
    steered = generate(vlm, [prompt], max_new_tokens=steps, intervention=intervention)
    assert steered.answers[0].text == expected
    assert generate(vlm, [prompt], max_new_tokens=steps).answers[0].text != expected


def test_order_a_capture_says_which_side_of_the_intervention_it_was_read_on(
    vlm: VisionLanguageModel, noise_prompts: Prompts
) -> None:
    inputs = render(vlm, noise_prompts)
    mask, ids = inputs["attention_mask"], inputs["input_ids"]
    positions = last_prompt_positions(mask)
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(1,))
    with (
        torch.inference_mode(),
        capture_states(vlm, blocks=(0, 1), positions=positions) as outer,
        steer(vlm, intervention, input_ids=ids, attention_mask=mask),
        capture_states(vlm, blocks=(0, 1), positions=positions) as inner,
    ):
        vlm.model(**inputs)
    assert outer.reading == {0: "unsteered", 1: "before_intervention"}
    assert inner.reading == {0: "unsteered", 1: "after_intervention"}
    torch.testing.assert_close(outer.states[1] - 1.0, inner.states[1])
    torch.testing.assert_close(outer.states[0], inner.states[0])


def test_states_equal_output_hidden_states_for_all_but_the_last_block(
    vlm: VisionLanguageModel, noise_prompts: Prompts
) -> None:
    """The last entry of `output_hidden_states` is after the final norm, which is why hooks are used."""
    inputs = render(vlm, noise_prompts[1:2])
    with torch.inference_mode():
        reference = vlm.model(**inputs, output_hidden_states=True).hidden_states
    states = embed(vlm, noise_prompts[1:2], blocks=ALL_BLOCKS)[0]
    for block in ALL_BLOCKS[:-1]:
        torch.testing.assert_close(states[block], reference[block + 1][0, -1], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(states[3], reference[4][0, -1], atol=1e-2)


def test_the_vision_tower_is_never_touched(vlm: VisionLanguageModel, noise_prompts: Prompts) -> None:
    tower = vlm.model.model.vision_tower
    assert not set(tower.modules()).intersection(vlm.blocks)
    inputs = render(vlm, noise_prompts)
    seen: list[Tensor] = []
    handle = tower.register_forward_hook(
        lambda _module, _args, output: seen.append(output.last_hidden_state.clone())
    )
    intervention = Intervention(
        delta=torch.full((4, vlm.hidden_size), 5.0), alpha=1.0, blocks=ALL_BLOCKS, scope="all"
    )
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    try:
        with torch.inference_mode():
            vlm.model(**inputs)
            with steer(vlm, intervention, input_ids=ids, attention_mask=mask):
                vlm.model(**inputs)
                watched = [hook for module in tower.modules() for hook in module._forward_hooks.values()]
    finally:
        handle.remove()
    assert torch.equal(seen[0], seen[1])
    assert not any(isinstance(hook, SteeringHook) for hook in watched)


@pytest.mark.parametrize("alpha", [-0.1, float("nan"), float("inf"), torch.tensor([0.5, -1.0, 0.0])])
def test_a_strength_below_zero_or_not_finite_is_refused(alpha: float | Tensor) -> None:
    with pytest.raises(UserError, match=r"interventions\.alpha"):
        Intervention(delta=torch.ones(1, 4), alpha=alpha, blocks=(0,))
