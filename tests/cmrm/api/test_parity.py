"""The API gives what a few lines over plain transformers give, and the defaults of a spec."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pytest
import torch
from PIL import Image
from torch import Tensor

import cmrm
from cmrm.models.vlm import render
from cmrm.prompts.conditions import make_meaningless
from flows.spec.interventions import InterventionSpec
from flows.spec.sections import GenerationSpec, ImagesSpec

BLOCKS = [5, 6, 7]
WHITE = Image.new("RGB", (336, 336), (255, 255, 255))


def ask_plainly(vlm: cmrm.VisionLanguageModel, question: str, image: Image.Image | None) -> dict[str, Tensor]:
    """One question through the processor's own chat template, a batch of its own without padding."""
    parts = [*([{"type": "image", "image": image}] if image else []), {"type": "text", "text": question}]
    return vlm.processor.apply_chat_template(
        [{"role": "user", "content": parts}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


@torch.inference_mode()
def read_plainly(vlm: cmrm.VisionLanguageModel, question: str, image: Image.Image | None) -> Tensor:
    """States by `output_hidden_states` [blocks but the last, hidden]: it gives the last one after the norm."""
    found = vlm.model(**ask_plainly(vlm, question, image), output_hidden_states=True).hidden_states
    return torch.stack([found[block + 1][0, -1] for block in range(len(vlm.blocks) - 1)])


@contextmanager
def subtract_plainly(vlm: cmrm.VisionLanguageModel, parts: dict[int, Tensor]) -> Iterator[None]:
    """Subtract a vector from the last token of each pass: the last prompt token, then each generated one."""

    def hook(part: Tensor):
        def subtract(_module, _args, output):
            moved = output.clone()
            moved[:, -1] -= part
            return moved

        return subtract

    handles = [vlm.blocks[block].register_forward_hook(hook(part)) for block, part in parts.items()]
    yield
    for handle in handles:
        handle.remove()


@torch.inference_mode()
def answer_plainly(vlm: cmrm.VisionLanguageModel, inputs: dict[str, Tensor]) -> Tensor:
    """New tokens [rows, new] by transformers' own greedy decoding."""
    return vlm.model.generate(**inputs, max_new_tokens=16, do_sample=False)[:, inputs["input_ids"].shape[1] :]


@pytest.fixture
def shift(organism, questions) -> cmrm.Shift:
    return cmrm.measure_shift(organism, questions, blocks=BLOCKS)


def intervene(shift: cmrm.Shift, **changes) -> cmrm.Intervention:
    return cmrm.Intervention(**{"delta": shift.delta, "alpha": 0.7, "blocks": shift.blocks, **changes})


@pytest.mark.parametrize("image", [None, WHITE])
def test_states_are_those_of_output_hidden_states(organism, questions, image):
    prompts = [cmrm.Prompt(text=question, image=image) for question in questions]
    states = cmrm.hidden_states(organism, prompts, batch_size=2)
    assert states.shape == (3, len(organism.blocks), organism.hidden_size)
    plain = torch.stack([read_plainly(organism, question, image) for question in questions])
    torch.testing.assert_close(states[:, :-1], plain, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cmrm.hidden_states(organism, prompts, blocks=[2, 4]), states[:, [2, 4]])


@pytest.mark.parametrize("steered", [False, True])
def test_states_at_other_tokens_are_those_that_hooks_see(organism, questions, shift, *, steered):
    prompts = [cmrm.Prompt(text=question, image=WHITE) for question in questions]
    parts = {5: 0.7 * shift.delta[0]} if steered else {}
    arm = intervene(shift, composition="direct", blocks=(5,), delta=shift.delta[:1])
    expected = {name: [] for name in ("last_image", "mean_image", "first_answer")}
    for question in questions:
        inputs, seen = ask_plainly(organism, question, WHITE), []
        own = inputs["input_ids"][0] == organism.model.config.image_token_id
        with subtract_plainly(organism, parts), torch.inference_mode():
            # Registered behind those that subtract, they see what these make.
            handles = [
                block.register_forward_hook(lambda _block, _args, output, into=seen: into.append(output[0]))
                for block in organism.blocks
            ]
            organism.model.generate(**inputs, max_new_tokens=2, do_sample=False)
            for handle in handles:
                handle.remove()
        prompt, answer = (torch.stack(seen[start : start + 8]) for start in (0, 8))
        expected["last_image"].append(prompt[:, own][:, -1])
        expected["mean_image"].append(prompt[:, own].mean(dim=1))
        expected["first_answer"].append(answer[:, 0])
    with cmrm.steer(organism, arm) if steered else nullcontext():
        for position, plain in expected.items():
            states = cmrm.hidden_states(organism, prompts, position=position, batch_size=2)
            torch.testing.assert_close(states, torch.stack(plain), rtol=1e-4, atol=1e-4)


def test_the_shift_is_the_mean_of_image_minus_text(organism, questions):
    shift = cmrm.measure_shift(organism, questions, blocks=[4, 5, 6], batch_size=2, model="mine")
    plain = [read_plainly(organism, one, WHITE) - read_plainly(organism, one, None) for one in questions]
    torch.testing.assert_close(shift.delta, torch.stack(plain).mean(0)[4:7], rtol=1e-4, atol=1e-4)
    assert (shift.blocks, shift.count) == ((4, 5, 6), 3)
    made_from = dict(shift.made_from)
    shown = json.loads(made_from.pop("stimulus"))
    assert made_from == {"image": "blank", "method": "mean", "model": "mine"}
    pixels = ask_plainly(organism, "?", WHITE)["pixel_values"]
    assert shown["low"] == shown["high"] == pixels.amax(dim=(0, 2, 3)).tolist()
    assert (shown["width"], shown["height"], shown["tokens"]) == (336, 336, 16)


def test_an_own_image_measures_as_its_word_does_and_prompts_images_are_left_out(organism, questions, shift):
    own = cmrm.measure_shift(organism, questions, image=WHITE, blocks=BLOCKS)
    assert torch.equal(own.delta, shift.delta)
    pictured = [cmrm.Prompt(text=one, image=Image.new("RGB", (9, 9))) for one in questions]
    assert torch.equal(cmrm.measure_shift(organism, pictured, blocks=BLOCKS).delta, shift.delta)


@pytest.mark.parametrize("composition", ["direct", "incremental"])
def test_steer_gives_the_tokens_of_hooks_that_subtract(organism, questions, shift, composition):
    parts = dict(zip(BLOCKS, shift.delta, strict=True))
    if composition == "incremental":
        parts = {5: shift.delta[0], 6: shift.delta[1] - shift.delta[0], 7: shift.delta[2] - shift.delta[1]}
    inputs = ask_plainly(organism, questions[0], WHITE)
    with subtract_plainly(organism, {block: 0.7 * part for block, part in parts.items()}):
        expected = answer_plainly(organism, inputs)
    plain = answer_plainly(organism, inputs)
    assert not torch.equal(plain[:, :5], expected[:, :5])
    with cmrm.steer(organism, intervene(shift, composition=composition)) as proofs:
        steered = answer_plainly(organism, inputs)
    assert torch.equal(steered, expected)
    (proof,) = proofs
    # The last generated token is not fed again.
    assert proof.acted == dict.fromkeys(BLOCKS, expected.shape[1])
    assert torch.equal(answer_plainly(organism, inputs), plain)


def test_steer_follows_from_batch_to_batch_and_answers_as_generate_does(organism, questions, shift):
    prompts = [cmrm.Prompt(text=one, image=WHITE) for one in questions]
    plain, steered = cmrm.generate(
        organism, prompts, arms=[None, intervene(shift)], max_new_tokens=16, batch_size=2
    )
    with cmrm.steer(organism, intervene(shift)) as proofs:
        tokens = [
            *answer_plainly(organism, render(organism, prompts)),
            *answer_plainly(organism, render(organism, prompts[:1])),
        ]
    texts = organism.processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    assert [one.text for one in steered.answers] == [text.strip() for text in texts[:3]]
    assert texts[3] == texts[0]
    assert [one.text for one in plain.answers] != [one.text for one in steered.answers]
    assert len(proofs) == 2
    assert proofs[0].distance[5] == pytest.approx(0.7 * float(shift.delta[0].norm()), rel=1e-4)


def test_states_inside_steer_are_read_after_it_and_around_it_before(organism, questions, shift):
    intervention = intervene(shift, composition="direct", blocks=(5,), delta=shift.delta[:1])
    plain = cmrm.hidden_states(organism, questions, blocks=[5])
    with cmrm.steer(organism, intervention):
        moved = cmrm.hidden_states(organism, questions, blocks=[5])
    torch.testing.assert_close(moved, plain - 0.7 * shift.delta[:1], rtol=1e-4, atol=1e-4)


def test_each_prompts_own_shift_goes_with_it_from_batch_to_batch(organism, questions):
    prompts = [cmrm.Prompt(text=one, image=WHITE) for one in questions]
    texts = cmrm.hidden_states(organism, questions, blocks=BLOCKS)
    own = cmrm.hidden_states(organism, prompts, blocks=BLOCKS) - texts
    arm = cmrm.Intervention(delta=own, alpha=1.0, blocks=tuple(BLOCKS))
    (together,) = cmrm.generate(organism, prompts, arms=[arm], max_new_tokens=16, batch_size=2)
    for row, prompt in enumerate(prompts):
        (alone,) = cmrm.generate(organism, [prompt], arms=[arm.of_rows([row])], max_new_tokens=16)
        assert alone.answers[0] == together.answers[row]


def test_defaults_are_those_of_a_spec():
    def default(function, name: str):
        return inspect.signature(function).parameters[name].default

    spec = InterventionSpec(name="any")
    assert default(cmrm.measure_shift, "image") == spec.image
    assert default(cmrm.measure_shift, "blocks") == spec.blocks
    assert default(cmrm.measure_shift, "method") == spec.method
    assert default(cmrm.generate, "max_new_tokens") == GenerationSpec().max_new_tokens
    assert default(cmrm.make_prompt, "image_size") == ImagesSpec().size
    sample = cmrm.Sample(id="1", dataset="any", question="?", harmful=True)
    for condition in ("blank", "noise"):
        images = ImagesSpec()
        # The size that every family but LLaVA-NeXT's has.
        recipe = make_meaningless(size=336, color=images.color, seed=images.seed)
        assert cmrm.make_prompt(sample, condition).image is recipe[condition].render()
