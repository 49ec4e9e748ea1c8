"""Arms decoded as branches of one KV cache slot give the answers of each arm alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cmrm.decoding.tree_decoder
from cmrm.decoding.api import answer, generate_arms, why_apart
from cmrm.decoding.branch_state import BranchState
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.nonfinite import Fault
from cmrm.decoding.requests import Answer, Arm, DecodeRequest
from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prefix.planner import Prefixes
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from cmrm.steering.hooks import BranchSteering
from cmrm.steering.intervention import Intervention, Stack
from cmrm.steering.projection import Projection
from cmrm.steering.settings import Composition, Gate, Scope

LONGEST = 12
QUESTIONS = (
    "what is it?",
    "name every colour that you can see in the picture",
    "hi",
    "is it red or blue?",
    "why?",
)


@pytest.fixture(scope="module")
def talker(llava_folder: Path) -> VisionLanguageModel:
    """The random LLaVA, whose answers end after one to a dozen tokens: every ninth token is an end."""
    vlm = load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")
    vlm.model.generation_config.eos_token_id = list(range(5, vlm.model.config.text_config.vocab_size, 9))
    return vlm


@pytest.fixture(params=["image", "text"])
def prompts(request: pytest.FixtureRequest) -> list[Prompt]:
    return make_prompts(with_image=request.param == "image")


def make_prompts(*, with_image: bool, images: int = len(QUESTIONS)) -> list[Prompt]:
    return [
        Prompt(text=question, image=noise_image(size=32, seed=row % images) if with_image else None)
        for row, question in enumerate(QUESTIONS)
    ]


def push(
    vlm: VisionLanguageModel,
    alpha: float,
    *,
    scope: Scope = "every_step",
    composition: Composition = "direct",
    rows: int | None = None,
    seed: int = 0,
) -> Intervention:
    blocks = tuple(range(len(vlm.blocks)))
    shape = (len(blocks), vlm.hidden_size) if rows is None else (rows, len(blocks), vlm.hidden_size)
    delta = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return Intervention(delta=delta, alpha=alpha, blocks=blocks, scope=scope, composition=composition)


def project(
    vlm: VisionLanguageModel, *, gate: Gate = "projection", scope: Scope = "every_position", count: int = 1
) -> Projection:
    blocks = tuple(range(len(vlm.blocks)))
    drawn = torch.randn(
        len(blocks), vlm.hidden_size, count + 1, generator=torch.Generator().manual_seed(count)
    )
    return Projection(
        directions=torch.linalg.qr(drawn[..., :count]).Q.transpose(1, 2).contiguous(),
        blocks=blocks,
        alpha=1.0 if gate == "projection" else 5.0,
        scope=scope,
        gate=gate,
        reference=None if gate == "projection" else drawn[..., count],
        limit=torch.full((len(blocks),), 3.0) if gate == "relu" else None,
    )


def all_sorts(vlm: VisionLanguageModel, rows: int) -> list[Arm]:
    return [
        None,
        push(vlm, 0.0),
        push(vlm, 0.5),
        push(vlm, 1.0, scope="prefill"),
        push(vlm, 1.0, composition="incremental"),
        push(vlm, 0.7, scope="all"),
        push(vlm, 0.8, rows=rows),
        Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=torch.linspace(0, 2, rows), blocks=(2,)),
        push(vlm, 0.6, scope="every_position"),
        project(vlm),
        project(vlm, scope="every_step", count=3),
        project(vlm, gate="cosine", scope="every_step"),
        project(vlm, gate="relu", scope="prefill"),
        Stack(parts=(project(vlm, scope="prefill"), push(vlm, 0.5), push(vlm, 0.3, scope="all", seed=1))),
    ]


def answer_alone(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], arms: Sequence[Arm]
) -> list[list[Answer]]:
    """The answers of transformers' own `generate`, by arm and prompt."""
    return [
        list(generate_apart(vlm, prompts, max_new_tokens=LONGEST, intervention=arm).answers) for arm in arms
    ]


@pytest.fixture(scope="module")
def all_alone(talker: VisionLanguageModel) -> Callable[..., list[list[Answer]]]:
    """The answers of all sorts of arms alone on the prompts of `make_prompts`, cached since they take long."""

    @cache
    def find(*, with_image: bool, images: int = len(QUESTIONS)) -> list[list[Answer]]:
        prompts = make_prompts(with_image=with_image, images=images)
        return answer_alone(talker, prompts, all_sorts(talker, len(prompts)))

    return find


def test_every_arm_is_answered_as_it_is_alone(
    talker: VisionLanguageModel, prompts: list[Prompt], all_alone: Callable[..., list[list[Answer]]]
) -> None:
    arms = all_sorts(talker, len(prompts))
    together = generate_arms(talker, prompts, max_new_tokens=LONGEST, arms=arms)
    alone = all_alone(with_image=prompts[0].image is not None)
    assert [list(one.answers) for one in together] == alone
    assert len({one.tokens for answers in alone for one in answers}) > 4, "answers of many lengths were tried"
    assert len({tuple(one.text for one in answers) for answers in alone}) >= len(arms) - 1


def test_the_proof_counts_each_state_that_was_fed_to_a_living_answer(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    arms = all_sorts(talker, len(prompts))
    plain, zero, half, prefill, _, throughout, *_ = generate_arms(
        talker, prompts, max_new_tokens=LONGEST, arms=arms
    )
    assert plain.proof is None
    assert zero.proof is not None
    assert set(zero.proof.acted.values()) == {0}
    tokens = sum(one.tokens for one in half.answers)
    assert half.proof is not None
    assert set(half.proof.acted.values()) == {tokens}
    assert prefill.proof is not None
    assert set(prefill.proof.acted.values()) == {len(prompts)}
    assert throughout.proof is not None
    assert min(throughout.proof.acted.values()) > sum(one.tokens for one in throughout.answers)
    alone = generate_apart(talker, prompts, max_new_tokens=1, intervention=arms[2])
    assert alone.proof is not None
    assert half.proof.distance == pytest.approx(alone.proof.distance, rel=1e-5)


def test_answers_on_one_image_read_it_once(
    talker: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    tower = talker.model.model.vision_tower.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append(len(kwargs.get("pixel_values", args[0] if args else ()))),
        with_kwargs=True,
    )
    prompts, prefixes = make_prompts(with_image=True, images=1), Prefixes(talker)
    arms: list[Arm] = [None, push(talker, 0.5)]
    requests = [DecodeRequest(prompts=prompts[start : start + 2], arms=arms) for start in range(0, 5, 2)]
    done = list(answer(talker, requests, max_new_tokens=LONGEST, rows=4, prefixes=prefixes))
    tower.remove()
    assert seen == [1]
    alone = answer_alone(talker, prompts, arms)
    for one in done:
        assert one.answers == {arm: alone[arm][2 * one.group + one.row] for arm in range(2)}


def test_slots_of_prompts_that_have_ended_are_reused(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = watch_passes(monkeypatch)
    requests = [DecodeRequest(prompts=[prompt], arms=[None, push(talker, 0.5)]) for prompt in prompts]
    order = [one.group for one in answer(talker, requests, max_new_tokens=LONGEST, rows=2)]
    assert sorted(order) == list(range(len(prompts)))
    assert max(rows for rows, _ in fed) == 2
    lengths = [
        max(one.tokens for one in answers)
        for answers in zip(*answer_alone(talker, prompts, [None, push(talker, 0.5)]), strict=True)
    ]
    in_order = sum(max(lengths[start : start + 2]) for start in range(0, len(lengths), 2))
    assert sum(rows == 2 for rows, _ in fed) < in_order


def test_branches_that_have_ended_are_fed_no_more(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = watch_passes(monkeypatch)
    arms: list[Arm] = [None, *(push(talker, alpha) for alpha in (0.2, 0.5, 0.8))]
    (answers,) = [
        one.answers
        for one in answer(talker, [DecodeRequest(prompts=prompts[:1], arms=arms)], max_new_tokens=99, rows=1)
    ]
    lengths = sorted((one.tokens for one in answers.values()), reverse=True)
    assert len(set(lengths)) > 1
    widths = [sum(length > step for length in lengths) for step in range(lengths[0])]
    assert [width for _, width in fed] == widths


def test_only_the_arms_that_are_wanted_are_answered(
    talker: VisionLanguageModel, prompts: list[Prompt], all_alone: Callable[..., list[list[Answer]]]
) -> None:
    arms = all_sorts(talker, len(prompts))
    wanted = [frozenset({0, 2, 6}), frozenset(), frozenset({5}), frozenset({7, 1}), frozenset(range(8))]
    request = DecodeRequest(prompts=prompts, arms=arms, wanted=wanted)
    done = {one.row: one for one in answer(talker, [request], max_new_tokens=LONGEST, rows=5)}
    alone = all_alone(with_image=prompts[0].image is not None)
    for row, chosen in enumerate(wanted):
        assert done[row].answers == {arm: alone[arm][row] for arm in chosen}
        assert set(done[row].proofs) == chosen - {0}


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_answers_do_not_depend_on_requests_slots_or_neighbours(
    talker: VisionLanguageModel, all_alone: Callable[..., list[list[Answer]]], data: st.DataObject
) -> None:
    with_image, images = data.draw(st.booleans()), data.draw(st.integers(1, 5))
    prompts = make_prompts(with_image=with_image, images=images)
    prefixes = Prefixes(talker) if data.draw(st.booleans()) else None
    # Those that are the same for any prompt.
    arms = all_sorts(talker, 1)[:6]
    alone = all_alone(with_image=with_image, images=images if with_image else len(QUESTIONS))
    order = data.draw(st.permutations(range(len(prompts))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(prompts) - 1))))
    members = [order[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(prompts)], strict=True)]
    chosen = [data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)) for _ in members]
    requests = [
        DecodeRequest(prompts=[prompts[row] for row in rows], arms=[arms[arm] for arm in numbers])
        for rows, numbers in zip(members, chosen, strict=True)
    ]
    rows = data.draw(st.integers(max(map(len, members)), 6))
    done = list(answer(talker, requests, max_new_tokens=LONGEST, rows=rows, prefixes=prefixes))
    assert len(done) == len(prompts)
    for one in done:
        for arm, found in one.answers.items():
            assert found == alone[chosen[one.group][arm]][members[one.group][one.row]]


def test_a_branch_whose_numbers_break_leaves_its_neighbours_alone(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    blocks = tuple(range(len(talker.blocks)))
    # Δ is finite, and αΔ is not.
    huge = Intervention(delta=torch.full((1, talker.hidden_size), 1e38), alpha=10.0, blocks=blocks[1:2])
    arms: list[Arm] = [None, huge, push(talker, 0.5)]
    plain, broken, half = generate_arms(talker, prompts, max_new_tokens=LONGEST, arms=arms)
    assert [list(plain.answers), list(half.answers)] == answer_alone(talker, prompts, [None, arms[2]])
    assert {one.fault for one in broken.answers} == {Fault(step=0, block=1)}


@pytest.fixture
def idle_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steering that runs and subtracts nothing."""
    monkeypatch.setattr("cmrm.steering.hooks._SteerBranches.subtract", lambda _, hidden, __: hidden)


@pytest.mark.usefixtures("idle_hooks")
def test_an_intervention_that_moves_nothing_raises_before_an_answer_is_given(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    answers = answer(
        talker, [DecodeRequest(prompts=prompts, arms=[None, push(talker, 0.5)])], max_new_tokens=4, rows=5
    )
    with pytest.raises(RuntimeError, match="no state moved at block"):
        next(answers)


@pytest.mark.usefixtures("idle_hooks")
def test_an_intervention_that_moves_nothing_raises_though_another_prompt_of_its_batch_has_no_shift(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    delta = torch.zeros(len(prompts), 1, talker.hidden_size)
    delta[1:] = 1.0
    own = Intervention(delta=delta, alpha=1.0, blocks=(0,))
    with pytest.raises(RuntimeError, match="no state moved at block 0"):
        generate_arms(talker, prompts, max_new_tokens=4, arms=[None, own])


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-30), ("float16", 1e-9), ("bfloat16", 1e-30)])
def test_an_intervention_lost_in_rounding_gives_the_baseline_answer(
    llava_folder: Path, prompts: list[Prompt], dtype: str, size: float
) -> None:
    """Together with other arms of a prompt, and with a prompt that has no shift at all."""
    vlm = load_model(resolve_model(str(llava_folder)), dtype=dtype, device="cpu")
    delta = torch.zeros(len(prompts), 1, vlm.hidden_size)
    delta[1:] = size
    tiny = Intervention(delta=delta, alpha=1.0, blocks=(0,))
    plain, found, _ = generate_arms(vlm, prompts, max_new_tokens=4, arms=[None, tiny, push(vlm, 0.5)])
    assert found.answers == plain.answers
    assert found.proof is not None
    # A number that is exactly 0 does move, by as little.
    assert found.proof.distance[0] < size
    assert generate_apart(vlm, prompts, max_new_tokens=4, intervention=tiny).answers == plain.answers


def test_generated_tokens_are_moved_by_the_shift_that_half_precision_has_not_rounded(
    llava_folder: Path, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_model(resolve_model(str(llava_folder)), dtype="bfloat16", device="cpu")
    original, seen = cmrm.decoding.tree_decoder.steer_branches, []

    def watch(vlm: VisionLanguageModel, steering: BranchSteering) -> AbstractContextManager[None]:
        seen.append({block: shift.clone() for block, shift in steering.shifts.items()})
        return original(vlm, steering)

    monkeypatch.setattr("cmrm.decoding.tree_decoder.steer_branches", watch)
    delta = torch.randn(1, vlm.hidden_size, generator=torch.Generator().manual_seed(0))
    own = Intervention(delta=delta, alpha=0.3, blocks=(1,))
    generate_arms(vlm, prompts, max_new_tokens=3, arms=[own])
    assert seen
    assert torch.equal(seen[0][1][0, 0], torch.tensor(0.3) * delta[0])


def test_tokens_that_the_model_forbids_are_in_no_answer(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = answer_alone(talker, prompts, [None])
    own = talker.model.generation_config
    monkeypatch.setattr(own, "suppress_tokens", list(range(40, 90)))
    monkeypatch.setattr(own, "begin_suppress_tokens", list(range(100, 180)))
    monkeypatch.setattr(own, "bad_words_ids", [[number] for number in range(20, 40)])
    arms: list[Arm] = [None, push(talker, 0.5)]
    together = generate_arms(talker, prompts, max_new_tokens=LONGEST, arms=arms)
    assert [list(one.answers) for one in together] == answer_alone(talker, prompts, arms)
    assert list(together[0].answers) != free[0]


def test_numbers_of_forbidden_tokens_that_are_none_forbid_nothing(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = talker.model.config.text_config.vocab_size
    monkeypatch.setattr(talker.model.generation_config, "suppress_tokens", [-1, 40, size])
    monkeypatch.setattr(talker.model.generation_config, "begin_suppress_tokens", [-size, 41, 2 * size])
    (together,) = generate_arms(talker, prompts, max_new_tokens=LONGEST, arms=[None])
    assert [list(together.answers)] == answer_alone(talker, prompts, [None])


def test_models_that_cannot_share_a_pass_decode_one_arm_after_the_other(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    arms = all_sorts(talker, len(prompts))
    together = generate_arms(talker, prompts, max_new_tokens=LONGEST, arms=arms)
    assert why_apart(talker) is None
    monkeypatch.setattr(talker.model.generation_config, "bad_words_ids", [[200, 201, 202]])
    assert "words of several tokens" in str(why_apart(talker))
    monkeypatch.setattr(BranchState, "forward", None)
    apart = generate_arms(talker, prompts, max_new_tokens=LONGEST, arms=arms)
    assert [one.answers for one in apart] == [one.answers for one in together]


def test_backbones_whose_cache_has_no_entry_for_each_token_decode_one_arm_after_the_other(
    talker: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["full_attention", "linear_attention"]
    monkeypatch.setattr(talker.model.config.text_config, "layer_types", kinds, raising=False)
    assert "linear_attention" in str(why_apart(talker))


def test_a_request_of_more_prompts_than_slots_is_refused(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    with pytest.raises(ValueError, match="5 prompts needs 5 slots, and there are 4"):
        list(answer(talker, [DecodeRequest(prompts=prompts, arms=[None])], max_new_tokens=4, rows=4))


def test_a_request_without_prompts_has_no_answers_and_holds_none_up(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    # Such is the last step of a defence that none of a batch needs.
    requests = [DecodeRequest(prompts=one, arms=[None]) for one in ([], prompts[:1])]
    done = list(answer(talker, requests, max_new_tokens=2, rows=1, prefixes=Prefixes(talker)))
    assert [(one.group, one.row) for one in done] == [(1, 0)]


def test_a_request_is_taken_only_when_slots_are_free(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    asked = []

    def ask() -> Iterator[DecodeRequest]:
        for number, prompt in enumerate(prompts):
            asked.append(number)
            yield DecodeRequest(prompts=[prompt], arms=[None])

    answers = answer(talker, ask(), max_new_tokens=LONGEST, rows=2)
    next(answers)
    assert len(asked) < len(prompts)
    answers.close()  # type: ignore[attr-defined] # a generator
    assert not any(block._forward_hooks for block in talker.blocks)


def watch_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Record the number of rows and branches of each decoding pass."""
    fed: list[tuple[int, int]] = []
    original = BranchState.forward

    def forward(self: BranchState, part: slice, *, width: int) -> torch.Tensor:
        fed.append((part.stop - part.start, width))
        return original(self, part, width=width)

    monkeypatch.setattr(BranchState, "forward", forward)
    return fed
