"""What holds for every kind of defence: α = 0, batches, padding, and the proof that it acted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from cmrm.decoding.api import answer, generate
from cmrm.decoding.requests import Answer, DecodeRequest
from cmrm.defences import DEFENCES, Defence, Materials
from cmrm.defences.coca import Coca
from cmrm.defences.direction import AddDirection
from cmrm.defences.project import ProjectOut
from cmrm.defences.prompt import SafetyPrompt
from cmrm.defences.random_shift import RandomShift
from cmrm.errors import UserError
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.direction import LabelledDirection
from cmrm.steering.hooks import embed_steered, steer
from cmrm.steering.shift import Shift

LONGEST = 6
# Kinds that measure or generate something for each question first, which have tests of their own.
OF_SEVERAL_STEPS = frozenset({"ecso", "shiftdc"})
PROMPTS = [
    Prompt(text=text, image=noise_image(size=32, seed=row))
    for row, text in enumerate(("what is it?", "name every colour that you can see", "hi"))
]
STEERING: Mapping[str, tuple[Defence, float]] = MappingProxyType(
    {
        "direction": (AddDirection(blocks=[1]), 1.0),
        "project": (ProjectOut(), 1.0),
        "project, subspace": (ProjectOut(count=3, scope="every_step"), 1.0),
        "project, cosine": (
            ProjectOut(gate="cosine", center="harmless", blocks=[2], scope="every_step"),
            5.0,
        ),
        "project, relu": (
            ProjectOut(gate="relu", center="harmless", blocks="last", scope="prefill"),
            1.0,
        ),
        "random": (RandomShift(blocks="all"), 1.0),
    }
)


@pytest.fixture(scope="module")
def talker(llava_folder: Path) -> VisionLanguageModel:
    """The random LLaVA, whose answers end after one to six tokens."""
    vlm = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")
    vlm.model.generation_config.eos_token_id = list(range(5, vlm.model.config.text_config.vocab_size, 9))
    return vlm


@pytest.fixture(scope="module")
def materials(talker: VisionLanguageModel) -> Materials:
    """A direction and a Δ at random, about as long as the model's states."""
    blocks, hidden = len(talker.blocks), talker.hidden_size
    drawn = torch.randn(hidden, blocks, hidden, generator=torch.Generator().manual_seed(0))
    return Materials(
        direction=LabelledDirection(
            harmful=drawn[0],
            harmless=drawn[1],
            components=torch.linalg.qr(drawn[2:10].permute(1, 2, 0)).Q.transpose(1, 2).contiguous(),
            blocks=tuple(range(blocks)),
        ),
        shift=Shift(delta=drawn[10], blocks=tuple(range(blocks)), count=1),
    )


def ask(
    vlm: VisionLanguageModel,
    materials: Materials,
    defence: Defence,
    alpha: float | None,
    prompts: Sequence[Prompt] = PROMPTS,
) -> list[Answer]:
    """The answers under one defence beside the plain ones."""
    own = [defence.change_prompt(prompt) for prompt in prompts]
    mixed = defence.contrast(alpha)
    request = DecodeRequest(
        prompts=prompts,
        arms=[None, defence.build(vlm, materials, alpha=alpha)],
        own_prompts={} if own[0] is prompts[0] else {1: own},
        contrasts={} if mixed is None else {1: mixed},
    )
    done = {one.row: one for one in answer(vlm, [request], max_new_tokens=LONGEST, rows=len(prompts))}
    return [done[row].answers[1] for row in range(len(prompts))]


def plain(vlm: VisionLanguageModel, prompts: Sequence[Prompt] = PROMPTS) -> list[Answer]:
    return list(generate(vlm, prompts, max_new_tokens=LONGEST).answers)


def test_every_kind_is_held_to_these_laws() -> None:
    tried = {name.partition(",")[0] for name in STEERING} | {"prompt", "coca"}
    assert set(DEFENCES.list_kinds()) - tried <= OF_SEVERAL_STEPS


@pytest.mark.parametrize("name", STEERING)
def test_strength_zero_gives_the_plain_answers(
    talker: VisionLanguageModel, materials: Materials, name: str
) -> None:
    defence, alpha = STEERING[name]
    assert ask(talker, materials, defence, 0.0) == plain(talker)
    assert ask(talker, materials, defence, alpha) != plain(talker)


@pytest.mark.parametrize(
    ("defence", "alpha"),
    [*STEERING.values(), (SafetyPrompt(preset="adashield-s"), None), (Coca(), 0.5)],
    ids=[*STEERING, "prompt", "coca"],
)
def test_neither_batch_nor_padding_changes_an_answer(
    talker: VisionLanguageModel, materials: Materials, defence: Defence, alpha: float | None
) -> None:
    alone = [one for prompt in PROMPTS for one in ask(talker, materials, defence, alpha, [prompt])]
    assert ask(talker, materials, defence, alpha) == alone
    assert ask(talker, materials, defence, alpha, PROMPTS[::-1]) == alone[::-1]


@pytest.mark.parametrize(
    "template", ["be careful. {question}", "{question} Again: {question}", "{question} {not a field} {}"]
)
def test_a_prompt_of_its_own_is_answered_as_that_prompt_alone(
    talker: VisionLanguageModel, materials: Materials, template: str
) -> None:
    asked = [
        Prompt(text=template.replace("{question}", one.text), image=one.image, system="no harm.")
        for one in PROMPTS
    ]
    defence = SafetyPrompt(template=template, system="no harm.")
    assert ask(talker, materials, defence, None) == plain(talker, asked)
    assert plain(talker, asked) != plain(talker)


def test_a_question_that_holds_the_mark_is_put_in_as_it_is() -> None:
    prompt = Prompt(text="what is {question}?", system="mine")
    changed = SafetyPrompt(template="<{question}>").change_prompt(prompt)
    assert changed == Prompt(text="<what is {question}?>", system="mine")


def test_ablation_leaves_nothing_along_the_direction(
    talker: VisionLanguageModel, materials: Materials
) -> None:
    ablated, plain = (
        embed_steered(talker, PROMPTS, blocks=range(4), intervention=acting)
        for alpha in (1.0, 0.0)
        if (acting := ProjectOut().build(talker, materials, alpha=alpha)) is not None
    )
    assert materials.direction is not None
    difference = materials.direction.harmful - materials.direction.harmless
    unit = difference / difference.norm(dim=1, keepdim=True)
    left, before = ((states * unit).sum(dim=-1).abs() for states in (ablated, plain))
    assert left.max() < 1e-5
    assert before.max() > 0.1


def test_addition_moves_the_state_along_the_direction(
    talker: VisionLanguageModel, materials: Materials
) -> None:
    moved, plain = (
        embed_steered(talker, PROMPTS, blocks=[1], intervention=acting)[:, 0]
        for alpha in (0.5, 0.0)
        if (acting := AddDirection(blocks=[1]).build(talker, materials, alpha=alpha)) is not None
    )
    assert materials.direction is not None
    difference = materials.direction.harmful[1] - materials.direction.harmless[1]
    torch.testing.assert_close(moved - plain, 0.5 * difference.expand_as(plain), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", STEERING)
def test_the_proof_counts_the_states_of_the_scope_and_measures_their_move(
    talker: VisionLanguageModel, materials: Materials, name: str
) -> None:
    defence, alpha = STEERING[name]
    acting = defence.build(talker, materials, alpha=alpha)
    assert acting is not None
    (prompt,) = PROMPTS[:1]
    found = generate(talker, [prompt], max_new_tokens=LONGEST, intervention=acting)
    length = render(talker, [prompt])["input_ids"].shape[1]
    generated = found.answers[0].tokens - 1
    expected = {"every_position": length + generated, "every_step": 1 + generated, "prefill": 1}
    assert found.proof is not None
    assert set(found.proof.acted) == set(acting.blocks)
    assert set(found.proof.acted.values()) == {expected[getattr(defence, "scope")]}  # noqa: B009 - of most kinds
    # One block, so that its state before is the plain one.
    block = acting.blocks[0]
    before, after = (
        embed_steered(talker, [prompt], blocks=[block], intervention=one)[0, 0]
        for one in (defence.build(talker, materials, alpha=0.0), acting)
        if one is not None
    )
    if getattr(defence, "scope") != "every_position":  # noqa: B009 - as above
        assert found.proof.distance[block] == pytest.approx(float((before - after).norm()), rel=1e-4)
    assert found.proof.distance[block] == pytest.approx(found.proof.asked[block], rel=1e-4)
    # A gate may be closed, and then nothing is asked.
    assert found.proof.unmoved[block] == 0


@pytest.mark.parametrize("name", STEERING)
def test_a_defence_whose_blocks_never_run_raises(
    talker: VisionLanguageModel, materials: Materials, name: str
) -> None:
    defence, alpha = STEERING[name]
    acting = defence.build(talker, materials, alpha=alpha)
    assert acting is not None
    inputs = render(talker, PROMPTS)
    with (
        pytest.raises(RuntimeError, match="the intervention never acted: block"),
        steer(talker, acting, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]),
    ):
        pass


@pytest.mark.parametrize("kind", [AddDirection, ProjectOut, RandomShift])
@pytest.mark.parametrize("block", [4, 99])
def test_a_block_that_the_model_lacks_is_named(
    talker: VisionLanguageModel, materials: Materials, kind: type[Defence], block: int
) -> None:
    defence = kind(blocks=[1, block])  # type: ignore[call-arg] # of all three kinds
    with pytest.raises(
        UserError, match=rf"interventions.blocks: no block {block} in this model; .* 0 to 3\.$"
    ):
        defence.build(talker, materials, alpha=1.0)


@pytest.mark.parametrize("defence", [AddDirection(), ProjectOut(), RandomShift()])
def test_a_defence_without_what_it_needs_says_what_to_give(
    talker: VisionLanguageModel, defence: Defence
) -> None:
    with pytest.raises(UserError, match=r"^interventions: no .* was measured; give .*\.$"):
        defence.build(talker, Materials(), alpha=1.0)
