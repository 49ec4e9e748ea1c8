"""What the adapter makes of each family's row: batches, positions, dtypes, skipped blocks, special tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from cmrm.decoding.api import generate
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.nonfinite import Fault
from cmrm.errors import UserError
from cmrm.models.family_table import FAMILIES
from cmrm.models.modules import find_backbone
from cmrm.models.vlm import (
    VisionLanguageModel,
    find_special_token,
    last_prompt_positions,
    prepare_model,
    render,
)
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import CapturedStates, capture_states, embed
from cmrm.steering.hooks import steer
from cmrm.steering.intervention import Intervention
from tests.conformance.asking import SHOWN, TEXT
from tests.conformance.builders import BUILDERS, NEED_TORCHVISION
from tests.conformance.loading import Load

HERE = sorted(set(BUILDERS) - NEED_TORCHVISION)
# Under M-RoPE the model computes positions from the image: `test_control_places` has them.
COUNTED = [name for name in HERE if FAMILIES[name].positions == "counted"]
MIXED = [name for name in HERE if FAMILIES[name].mixed_batches]


def all_blocks(vlm: VisionLanguageModel) -> Sequence[int]:
    return range(len(vlm.blocks))


@contextmanager
def positions_seen(module: nn.Module) -> Iterator[list[Tensor | None]]:
    """The positions that a model, or its backbone, is given, pass by pass."""
    seen: list[Tensor | None] = []

    def note(_module: nn.Module, _arguments: object, given: dict[str, Tensor | None]) -> None:
        positions = given.get("position_ids")
        # Branches count on in place.
        seen.append(None if positions is None else positions.clone())

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("prompts", [TEXT, SHOWN], ids=["text", "image"])
def test_answers_do_not_depend_on_the_batch(tiny: Load, name: str, prompts: list[Prompt]) -> None:
    vlm = tiny(name)
    together = generate(vlm, prompts, max_new_tokens=6).answers
    assert together == tuple(generate(vlm, [one], max_new_tokens=6).answers[0] for one in prompts)
    assert len({answer.text for answer in together}) > 1


@pytest.mark.parametrize("name", COUNTED)
@pytest.mark.parametrize("prompts", [TEXT, SHOWN], ids=["text", "image"])
def test_states_are_read_at_the_positions_that_answers_are_made_at(
    tiny: Load, name: str, prompts: list[Prompt]
) -> None:
    vlm = tiny(name)
    prompts = prompts if vlm.family.batches else prompts[:1]
    with positions_seen(vlm.model.base_model) as seen:
        embed(vlm, prompts, blocks=[0])
        generate_apart(vlm, prompts, max_new_tokens=1)
    mask = render(vlm, prompts)["attention_mask"].bool()
    read, answered = seen
    assert read is not None
    assert answered is not None
    assert torch.equal(read[mask], answered[mask])


@pytest.mark.parametrize("name", [name for name in COUNTED if FAMILIES[name].shares == "all"])
@pytest.mark.parametrize("prompts", [TEXT, SHOWN], ids=["text", "image"])
def test_branches_grow_from_the_position_at_which_states_are_read(
    tiny: Load, name: str, prompts: list[Prompt]
) -> None:
    vlm = tiny(name)
    with positions_seen(find_backbone(vlm)) as seen:
        embed(vlm, prompts, blocks=[0])
        generate(vlm, prompts, max_new_tokens=1)
    mask = render(vlm, prompts)["attention_mask"].bool()
    read, before, last, *_ = seen
    assert read is not None
    assert before is not None
    assert last is not None
    assert torch.equal(read[:, :-1][mask[:, :-1]], before[mask[:, :-1]])
    assert torch.equal(read[:, -1:], last)


def test_a_model_that_computes_positions_from_the_image_is_given_none_with_one(tiny: Load) -> None:
    vlm = tiny("llava")
    vlm = replace(vlm, family=replace(vlm.family, positions="multimodal"))
    with positions_seen(vlm.model.base_model) as seen:
        embed(vlm, SHOWN, blocks=[0])
        embed(vlm, TEXT, blocks=[0])
    assert seen[0] is None
    assert seen[1] is not None


def test_reading_makes_no_logits_or_those_of_one_token(tiny: Load) -> None:
    vlm = tiny("llava")
    # As Llama 4, which is its own base model.
    whole = SimpleNamespace(
        base_model=vlm.model,
        config=vlm.model.config,
        dtype=vlm.model.dtype,
        get_input_embeddings=vlm.model.get_input_embeddings,
    )
    made: list[Tensor] = []
    handle = vlm.model.lm_head.register_forward_hook(lambda _head, _args, logits: made.append(logits))
    try:
        states = embed(vlm, SHOWN, blocks=[0])
        assert not made
        found = embed(replace(vlm, model=whole), SHOWN, blocks=[0])
        torch.testing.assert_close(found, states, atol=1e-5, rtol=1e-5)
    finally:
        handle.remove()
    assert [logits.shape[:2] for logits in made] == [(3, 1)]


@pytest.mark.parametrize("name", MIXED)
def test_prompts_with_and_without_an_image_can_share_a_batch(tiny: Load, name: str) -> None:
    vlm = tiny(name)
    mixed = [SHOWN[0], TEXT[1], SHOWN[2]]
    together = embed(vlm, mixed, blocks=all_blocks(vlm))
    alone = torch.cat([embed(vlm, [one], blocks=all_blocks(vlm)) for one in mixed])
    torch.testing.assert_close(together, alone, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in sorted(set(HERE) - set(MIXED)) if FAMILIES[name].batches])
def test_a_mixed_batch_is_refused_where_the_family_takes_none(tiny: Load, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} takes no batch of prompts with and without an image"):
        render(tiny(name), [SHOWN[0], TEXT[1]])


@pytest.mark.parametrize("name", HERE)
def test_only_floating_inputs_get_the_dtype_of_the_model(tiny: Load, name: str) -> None:
    vlm = tiny(name)
    embeddings = vlm.model.get_input_embeddings
    half = replace(vlm, model=SimpleNamespace(dtype=torch.bfloat16, get_input_embeddings=embeddings))
    plain, cast = render(vlm, SHOWN[:1]), render(half, SHOWN[:1])
    assert {key: value.dtype for key, value in cast.items()} == {
        key: torch.bfloat16 if value.is_floating_point() else value.dtype for key, value in plain.items()
    }
    assert cast["pixel_values"].dtype == torch.bfloat16


def test_the_state_at_a_skipped_block_is_what_passes_it(tiny: Load) -> None:
    vlm = tiny("mllama")
    assert vlm.image_only_blocks == {1, 3}
    states = embed(vlm, TEXT, blocks=all_blocks(vlm))
    assert torch.equal(states[:, 1], states[:, 0])
    assert torch.equal(states[:, 3], states[:, 2])
    assert not torch.equal(states[:, 2], states[:, 1])
    shown = embed(vlm, SHOWN, blocks=all_blocks(vlm))
    assert not torch.allclose(shown[:, 1], shown[:, 0], atol=1e-2)


@pytest.mark.parametrize(
    ("nesting", "reading"), [("outside", "before_intervention"), ("inside", "after_intervention")]
)
def test_what_an_intervention_left_passes_a_skipped_block(tiny: Load, nesting: str, reading: str) -> None:
    """A capture set before the intervention reads its block as it was, and the skipped one as it is passed."""
    vlm = tiny("mllama")
    inputs = render(vlm, TEXT)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    delta = torch.randn(1, vlm.hidden_size, generator=torch.Generator().manual_seed(0))
    before = embed(vlm, TEXT, blocks=[0])[:, 0]
    capture = capture_states(vlm, blocks=(0, 1), positions=last_prompt_positions(mask))
    intervention = Intervention(delta=delta, alpha=1.0, blocks=(0,))
    with torch.inference_mode():
        if nesting == "outside":
            with capture as found, steer(vlm, intervention, input_ids=ids, attention_mask=mask):
                vlm.model(**inputs)
        else:
            with steer(vlm, intervention, input_ids=ids, attention_mask=mask), capture as found:
                vlm.model(**inputs)
    torch.testing.assert_close(found.states[0], before if nesting == "outside" else before - delta)
    torch.testing.assert_close(found.states[1], before - delta)
    assert found.reading == {0: reading, 1: "unsteered"}
    assert not any(block._forward_pre_hooks for block in vlm.blocks)


def test_steering_at_a_skipped_block_raises(tiny: Load) -> None:
    vlm = tiny("mllama")
    intervention = Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=1.0, blocks=(1,))
    with pytest.raises(RuntimeError, match="never acted: block 1"):
        generate(vlm, TEXT, max_new_tokens=2, intervention=intervention)
    proof = generate(vlm, SHOWN, max_new_tokens=2, intervention=intervention).proof
    assert proof is not None
    assert proof.acted == {1: 6}


@pytest.mark.parametrize("prompts", [TEXT, SHOWN], ids=["text", "image"])
def test_a_fault_is_traced_past_skipped_blocks(tiny: Load, prompts: list[Prompt]) -> None:
    vlm = tiny("mllama")
    weight = vlm.blocks[2].mlp.down_proj.weight.data
    whole = weight.clone()
    weight.fill_(float("nan"))
    try:
        answers = generate(vlm, prompts, max_new_tokens=2).answers
    finally:
        weight.copy_(whole)
    assert [answer.fault for answer in answers] == [Fault(step=0, block=2)] * 3


def test_the_last_block_cannot_be_one_that_is_skipped(tiny: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = tiny("mllama")
    monkeypatch.setattr(vlm.model.config.text_config, "cross_attention_layers", [1, 4])
    with pytest.raises(UserError, match=r"names blocks \[1, 4\] of 5"):
        prepare_model(vlm.model, vlm.processor, where="tiny")


def test_states_on_several_devices_come_together_on_the_first() -> None:
    states = {0: torch.ones(2, 4, device="meta"), 1: torch.ones(2, 4)}
    assert CapturedStates(states=states).stack([0, 1]).device.type == "meta"


def test_special_tokens_are_all_that_a_question_must_not_hold(tiny: Load) -> None:
    aya = tiny("aya_vision")
    # What its template puts, which is no token; what stands for it; a change of speaker.
    for token in ("<image>", "<|IMG_PATCH|>", "<|CHATBOT_TOKEN|>"):
        assert find_special_token(aya, Prompt(text=f"what is {token} here?")) == token
    assert find_special_token(aya, TEXT[1]) is None
    assert {"<start_of_image>", "<image_soft_token>"} <= tiny("gemma3").special_tokens
