"""Arms that ask otherwise, and arms that mix the logits of two prompts, answer as a naive, cache-free loop does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmrm.decoding.api import answer
from cmrm.decoding.branch_state import BranchState
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.nonfinite import Fault
from cmrm.decoding.requests import Answer, Answered, DecodeRequest
from cmrm.errors import UserError
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.intervention import Intervention, Stack
from cmrm.steering.projection import Projection
from tests.conformance.naive_defences import Naive

LONGEST = 8
PLAIN = [
    Prompt(text=text, image=noise_image(size=32, seed=row))
    for row, text in enumerate(
        ("what is it?", "name every colour that you can see", "hi", "is it red?", "why?")
    )
]
OWN = [replace(prompt, text=f"be careful! {prompt.text}") for prompt in PLAIN]
STRENGTH = 0.8


@pytest.fixture
def talker(llava_folder: Path) -> VisionLanguageModel:
    """The random LLaVA, whose answers end after one to eight tokens; a test may change its weights."""
    vlm = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")
    vlm.model.generation_config.eos_token_id = list(range(5, vlm.model.config.text_config.vocab_size, 9))
    return vlm


def mix_naively(
    vlm: VisionLanguageModel,
    own: Sequence[Prompt],
    plain: Sequence[Prompt],
    strength: float,
    longest: int = LONGEST,
) -> list[Answer]:
    """CoCA's answers by running both whole sequences again for each token."""
    ends = frozenset(vlm.model.generation_config.eos_token_id)
    naive = Naive(model=vlm.model, processor=vlm.processor, blocks=vlm.blocks, ends=ends, longest=longest)
    found = [
        naive.answer_mixed(naive.ask(one.text, one.image), naive.ask(other.text, other.image), strength)
        for one, other in zip(own, plain, strict=True)
    ]
    tokenizer = vlm.processor.tokenizer
    sizes = [
        sum(naive.ask(prompt.text, prompt.image)["input_ids"].shape[1] for prompt in pair)
        for pair in zip(own, plain, strict=True)
    ]
    return [
        Answer(
            text=tokenizer.decode(tokens, skip_special_tokens=True).strip(),
            tokens=len(tokens),
            finish_reason="stop" if tokens[-1] in ends else "length",
            prompt_tokens=size,
        )
        for tokens, size in zip(found, sizes, strict=True)
    ]


def answer_alone(vlm: VisionLanguageModel, prompts: Sequence[Prompt]) -> list[Answer]:
    return list(generate_apart(vlm, prompts, max_new_tokens=LONGEST).answers)


def count_both(answers: Sequence[Answer], plain: Sequence[Answer]) -> list[Answer]:
    """The answers as mixed ones have them, which read both prompts."""
    return [
        replace(one, prompt_tokens=one.prompt_tokens + other.prompt_tokens)
        for one, other in zip(answers, plain, strict=True)
    ]


def ask(vlm: VisionLanguageModel, *requests: DecodeRequest, rows: int) -> list[Answered]:
    done = list(answer(vlm, requests, max_new_tokens=LONGEST, rows=rows))
    return sorted(done, key=lambda one: (one.group, one.row))


def mix(rows: slice, *, strength: float = STRENGTH) -> DecodeRequest:
    """The plain arm, one that asks otherwise, and one that mixes the two."""
    own = OWN[rows]
    return DecodeRequest(
        prompts=PLAIN[rows], arms=[None, None, None], own_prompts={1: own, 2: own}, contrasts={2: strength}
    )


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_mixed_answers_depend_neither_on_slots_nor_on_what_else_is_decoded(
    talker: VisionLanguageModel, rows: int
) -> None:
    expected = [
        answer_alone(talker, PLAIN),
        answer_alone(talker, OWN),
        mix_naively(talker, OWN, PLAIN, STRENGTH),
    ]
    assert len({tuple(one) for one in expected}) == 3
    assert len({one.tokens for one in expected[2]}) > 1, "answers that end at different lengths were tried"
    requests = [mix(slice(start, start + rows)) for start in range(0, len(PLAIN), rows)]
    done = ask(talker, *requests, rows=rows)
    assert [[one.answers[arm] for one in done] for arm in range(3)] == expected
    assert not any(one.proofs for one in done)


@pytest.mark.parametrize("rows", [1, 2])
def test_a_later_request_may_be_the_first_that_mixes(talker: VisionLanguageModel, rows: int) -> None:
    plain = DecodeRequest(prompts=PLAIN[:1], arms=[None])
    first, second, third = ask(talker, plain, mix(slice(1, 2)), plain, rows=rows)
    assert first.answers == third.answers == {0: answer_alone(talker, PLAIN[:1])[0]}
    assert second.answers[2] == mix_naively(talker, OWN[1:2], PLAIN[1:2], STRENGTH)[0]


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many slots each pass of branches feeds, up to the last of them."""
    passes: list[int] = []
    original = BranchState.forward

    def forward(self: BranchState, part: slice, *, width: int) -> torch.Tensor:
        passes.append(part.stop)
        return original(self, part, width=width)

    monkeypatch.setattr(BranchState, "forward", forward)
    return passes


def test_each_arm_holds_one_prompt_a_slot_at_a_time_but_for_a_pair_that_mixes(
    talker: VisionLanguageModel, fed: list[int]
) -> None:
    prompts = [DecodeRequest(prompts=[one], arms=[None]) for one in PLAIN[:3]]
    ask(talker, *prompts, rows=1)
    assert set(fed) == {1}
    fed.clear()
    ask(talker, mix(slice(0, 1)), rows=1)
    assert max(fed) == 4, "two arms are beside the pair"


def test_arms_with_prompts_of_their_own_are_decoded_side_by_side(
    talker: VisionLanguageModel, fed: list[int]
) -> None:
    own = {1: OWN[:2], 2: OWN[2:4], 3: OWN[:2]}
    request = DecodeRequest(prompts=PLAIN[:2], arms=[None] * 4, own_prompts=own)
    expected = [answer_alone(talker, prompts) for prompts in (PLAIN[:2], *own.values())]
    fed.clear()
    done = ask(talker, request, rows=2)
    assert [[one.answers[arm] for one in done] for arm in range(4)] == expected
    longest = max(answer.tokens for arm in expected for answer in arm)
    # A pass a token, after one for each arm that feeds the last token of its prompts.
    assert len(fed) == len(expected) + longest - 1
    assert max(fed) == 8


def test_strength_zero_gives_the_answers_of_the_prompt_with_the_principle(
    talker: VisionLanguageModel,
) -> None:
    done = ask(talker, mix(slice(None), strength=0.0), rows=5)
    alone, plain = answer_alone(talker, OWN), answer_alone(talker, PLAIN)
    assert [one.answers[1] for one in done] == alone
    assert [one.answers[2] for one in done] == count_both(alone, plain)


def test_a_principle_that_changes_nothing_gives_the_plain_answers_at_any_strength(
    talker: VisionLanguageModel,
) -> None:
    request = DecodeRequest(prompts=PLAIN, arms=[None], own_prompts={0: PLAIN}, contrasts={0: 3.0})
    alone = answer_alone(talker, PLAIN)
    assert [one.answers[0] for one in ask(talker, request, rows=5)] == count_both(alone, alone)


def test_only_the_prompts_that_want_a_mixed_answer_get_one(talker: VisionLanguageModel) -> None:
    wanted = [frozenset({2}), frozenset({0}), frozenset(), frozenset({1, 2}), frozenset({0, 1})]
    done = ask(talker, replace(mix(slice(None)), wanted=wanted), rows=5)
    assert [frozenset(one.answers) for one in done] == wanted
    mixed = mix_naively(talker, OWN, PLAIN, STRENGTH)
    assert (done[0].answers[2], done[3].answers[2]) == (mixed[0], mixed[3])
    assert done[4].answers[1] == answer_alone(talker, OWN)[4]


def test_a_part_of_a_mixed_arm_is_not_given_prompts_that_were_rendered_for_the_whole(
    talker: VisionLanguageModel,
) -> None:
    # In four slots two questions are answered at a time: with their plain prompts, as many as were rendered.
    request = DecodeRequest(
        prompts=PLAIN[:4],
        arms=[None],
        own_prompts={0: OWN[:4]},
        contrasts={0: STRENGTH},
        own_rendered={0: render(talker, OWN[:4])},
    )
    answers = [one.answers[0] for one in ask(talker, request, rows=4)]
    assert answers == mix_naively(talker, OWN[:4], PLAIN[:4], STRENGTH)


@pytest.mark.parametrize("longer", ["own", "plain"])
def test_a_mixed_answer_ends_where_the_longer_of_its_prompts_has_no_positions_left(
    talker: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch, longer: str
) -> None:
    ends = talker.model.generation_config.eos_token_id
    monkeypatch.setattr(talker.model.generation_config, "suppress_tokens", list(ends))
    own, plain = (OWN, PLAIN) if longer == "own" else (PLAIN, OWN)
    request = DecodeRequest(prompts=plain[:2], arms=[None], own_prompts={0: own[:2]}, contrasts={0: STRENGTH})
    unlimited = [one.answers[0].tokens for one in ask(talker, request, rows=2)]
    assert unlimited == [LONGEST, LONGEST]
    config = talker.model.config.get_text_config()
    naive = Naive(model=talker.model, processor=talker.processor, blocks=(), ends=frozenset(), longest=0)
    lengths = [naive.ask(one.text, one.image)["input_ids"].shape[1] for one in OWN[:2]]
    assert lengths[0] + LONGEST < lengths[1]
    monkeypatch.setattr(config, "max_position_embeddings", max(lengths) + 3)
    answers = [one.answers[0] for one in ask(talker, request, rows=2)]
    assert [(one.tokens, one.finish_reason) for one in answers] == [(LONGEST, "length"), (3, "length")]


@pytest.mark.parametrize("broken", ["own", "plain"])
def test_numbers_that_break_in_one_of_the_two_prompts_are_a_fault_of_that_question_alone(
    talker: VisionLanguageModel, broken: str
) -> None:
    tilde = talker.processor.tokenizer("~", add_special_tokens=False).input_ids
    talker.model.get_input_embeddings().weight.data[tilde] = torch.nan
    own, plain = list(OWN), list(PLAIN)
    changed = own if broken == "own" else plain
    changed[1] = replace(changed[1], text="~")
    request = DecodeRequest(prompts=plain, arms=[None], own_prompts={0: own}, contrasts={0: STRENGTH})
    answers = [one.answers[0] for one in ask(talker, request, rows=5)]
    assert (answers[1].text, answers[1].tokens, answers[1].fault) == ("", 0, Fault(step=0, block=0))
    others = [0, 2, 3, 4]
    expected = mix_naively(talker, [OWN[row] for row in others], [PLAIN[row] for row in others], STRENGTH)
    assert [answers[row] for row in others] == expected


def test_numbers_that_break_at_a_later_token_of_a_mixed_answer_are_a_fault_of_that_step(
    talker: VisionLanguageModel,
) -> None:
    ends = frozenset(talker.model.generation_config.eos_token_id)
    naive = Naive(model=talker.model, processor=talker.processor, blocks=(), ends=ends, longest=1)
    asked = [[naive.ask(one.text, one.image) for one in pair] for pair in zip(OWN, PLAIN, strict=True)]
    first = [naive.answer_mixed(own, plain, STRENGTH)[0] for own, plain in asked]
    # A question whose answer does not begin with a token that it holds itself, or that ends the answer.
    row = next(
        row
        for row, token in enumerate(first)
        if token not in {*ends, *asked[row][0]["input_ids"][0].tolist()}
    )
    talker.model.get_input_embeddings().weight.data[first[row]] = torch.nan
    (done,) = ask(talker, mix(slice(row, row + 1)), rows=1)
    assert done.answers[2].fault == Fault(step=1, block=None)
    assert done.answers[2].tokens == 1


def test_an_arm_with_prompts_of_its_own_is_steered_as_it_is_alone(talker: VisionLanguageModel) -> None:
    blocks = tuple(range(len(talker.blocks)))
    drawn = torch.randn(2, len(blocks), talker.hidden_size, generator=torch.Generator().manual_seed(0))
    unit = drawn[0] / drawn[0].norm(dim=-1, keepdim=True)
    projection = Projection(directions=unit[:, None], blocks=blocks)
    push = Intervention(delta=drawn[1], alpha=1.0, blocks=blocks)
    arms = [push, projection, Stack(parts=(push, projection))]
    request = DecodeRequest(prompts=PLAIN, arms=arms, own_prompts=dict.fromkeys(range(3), OWN))
    done = ask(talker, request, rows=5)
    for number, arm in enumerate(arms):
        alone = generate_apart(talker, OWN, max_new_tokens=LONGEST, intervention=arm)
        assert [one.answers[number] for one in done] == list(alone.answers)
        assert list(alone.answers) != answer_alone(talker, OWN)


def test_a_model_that_cannot_share_a_pass_asks_otherwise_too_but_refuses_to_mix(
    talker: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talker.model.generation_config, "bad_words_ids", [[200, 201, 202]])
    request = DecodeRequest(prompts=PLAIN, arms=[None, None], own_prompts={1: OWN})
    done = ask(talker, request, rows=5)
    assert [one.answers[1] for one in done] == answer_alone(talker, OWN)
    with pytest.raises(UserError, match=r"^interventions: logits of two prompts cannot be mixed .* coca\.$"):
        ask(talker, mix(slice(None)), rows=5)


def test_an_arm_that_mixes_needs_prompts_of_its_own_and_no_steering(talker: VisionLanguageModel) -> None:
    push = Intervention(delta=torch.ones(1, talker.hidden_size), alpha=1.0, blocks=(0,))
    with pytest.raises(ValueError, match="arm 0 mixes logits"):
        DecodeRequest(prompts=PLAIN, arms=[None], contrasts={0: 1.0})
    with pytest.raises(ValueError, match="arm 0 mixes logits"):
        DecodeRequest(prompts=PLAIN, arms=[push], own_prompts={0: OWN}, contrasts={0: 1.0})


def test_projections_of_answered_prompts_are_dropped(
    talker: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each batch may bring projections of its own, and each is computed for all branches of a pass."""
    counts: list[int] = []
    original = BranchState.forward

    def forward(self: BranchState, part: slice, *, width: int) -> torch.Tensor:
        counts.append(self.projections.shape[2])
        return original(self, part, width=width)

    monkeypatch.setattr(BranchState, "forward", forward)
    unit = torch.zeros(1, 1, talker.hidden_size)
    unit[..., 0] = 1.0

    def remove() -> Projection:
        return Projection(directions=unit, blocks=(1,), scope="every_step")

    requests = [DecodeRequest(prompts=[prompt], arms=[remove(), remove()]) for prompt in PLAIN]
    done = ask(talker, *requests, rows=2)
    # Two prompts at once, of two arms each.
    assert max(counts) <= 4
    expected = generate_apart(talker, PLAIN, max_new_tokens=LONGEST, intervention=remove()).answers
    assert [one.answers for one in done] == [{0: one, 1: one} for one in expected]
