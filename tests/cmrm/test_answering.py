"""Ways of answering that grow as branches of one cache row come to what each comes to alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cmrm.tree
from cmrm.answering import answer, why_apart
from cmrm.answers import Answer
from cmrm.branches import Branches
from cmrm.conditions import Prompt
from cmrm.faults import Fault
from cmrm.generation import generate_ways
from cmrm.generation_apart import generate_apart
from cmrm.groups import Group, Way
from cmrm.images import noise_image
from cmrm.interventions import Composition, Scope
from cmrm.loading import load_model
from cmrm.model import VisionLanguageModel
from cmrm.prefix import Prefixes
from cmrm.revision import resolve_model
from cmrm.steering import Intervention

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


def all_sorts(vlm: VisionLanguageModel, rows: int) -> list[Way]:
    return [
        None,
        push(vlm, 0.0),
        push(vlm, 0.5),
        push(vlm, 1.0, scope="prefill"),
        push(vlm, 1.0, composition="incremental"),
        push(vlm, 0.7, scope="all"),
        push(vlm, 0.8, rows=rows),
        Intervention(delta=torch.ones(1, vlm.hidden_size), alpha=torch.linspace(0, 2, rows), blocks=(2,)),
    ]


def answer_alone(
    vlm: VisionLanguageModel, prompts: Sequence[Prompt], ways: Sequence[Way]
) -> list[list[Answer]]:
    """What each way comes to through transformers' own `generate`, by way and prompt."""
    return [
        list(generate_apart(vlm, prompts, max_new_tokens=LONGEST, intervention=way).answers) for way in ways
    ]


@pytest.fixture(scope="module")
def all_alone(talker: VisionLanguageModel) -> Callable[..., list[list[Answer]]]:
    """What all sorts of ways come to alone on the prompts of `make_prompts`, found once for each: it takes long."""

    @cache
    def find(*, with_image: bool, images: int = len(QUESTIONS)) -> list[list[Answer]]:
        prompts = make_prompts(with_image=with_image, images=images)
        return answer_alone(talker, prompts, all_sorts(talker, len(prompts)))

    return find


def test_every_way_is_answered_as_it_is_alone(
    talker: VisionLanguageModel, prompts: list[Prompt], all_alone: Callable[..., list[list[Answer]]]
) -> None:
    ways = all_sorts(talker, len(prompts))
    together = generate_ways(talker, prompts, max_new_tokens=LONGEST, ways=ways)
    alone = all_alone(with_image=prompts[0].image is not None)
    assert [list(one.answers) for one in together] == alone
    assert len({one.tokens for answers in alone for one in answers}) > 4, "answers of many lengths were tried"
    assert len({tuple(one.text for one in answers) for answers in alone}) >= len(ways) - 1


def test_the_proof_counts_each_state_that_was_fed_to_a_living_answer(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    ways = all_sorts(talker, len(prompts))
    plain, zero, half, prefill, _, throughout, *_ = generate_ways(
        talker, prompts, max_new_tokens=LONGEST, ways=ways
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
    alone = generate_apart(talker, prompts, max_new_tokens=1, intervention=ways[2])
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
    ways: list[Way] = [None, push(talker, 0.5)]
    groups = [Group(prompts=prompts[start : start + 2], ways=ways) for start in range(0, 5, 2)]
    done = list(answer(talker, groups, max_new_tokens=LONGEST, rows=4, prefixes=prefixes))
    tower.remove()
    assert seen == [1]
    alone = answer_alone(talker, prompts, ways)
    for one in done:
        assert one.answers == {way: alone[way][2 * one.group + one.row] for way in range(2)}


def test_rows_that_have_ended_make_room_for_others(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    fed = watch_passes(monkeypatch)
    groups = [Group(prompts=[prompt], ways=[None, push(talker, 0.5)]) for prompt in prompts]
    order = [one.group for one in answer(talker, groups, max_new_tokens=LONGEST, rows=2)]
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
    ways: list[Way] = [None, *(push(talker, alpha) for alpha in (0.2, 0.5, 0.8))]
    (answers,) = [
        one.answers
        for one in answer(talker, [Group(prompts=prompts[:1], ways=ways)], max_new_tokens=99, rows=1)
    ]
    lengths = sorted((one.tokens for one in answers.values()), reverse=True)
    assert len(set(lengths)) > 1
    widths = [sum(length > step for length in lengths) for step in range(lengths[0])]
    assert [width for _, width in fed] == widths


def test_only_the_ways_that_are_wanted_are_answered(
    talker: VisionLanguageModel, prompts: list[Prompt], all_alone: Callable[..., list[list[Answer]]]
) -> None:
    ways = all_sorts(talker, len(prompts))
    wanted = [frozenset({0, 2, 6}), frozenset(), frozenset({5}), frozenset({7, 1}), frozenset(range(8))]
    group = Group(prompts=prompts, ways=ways, wanted=wanted)
    done = {one.row: one for one in answer(talker, [group], max_new_tokens=LONGEST, rows=5)}
    alone = all_alone(with_image=prompts[0].image is not None)
    for row, chosen in enumerate(wanted):
        assert done[row].answers == {way: alone[way][row] for way in chosen}
        assert set(done[row].acted) == chosen - {0}


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_answers_do_not_depend_on_groups_rows_or_neighbours(
    talker: VisionLanguageModel, all_alone: Callable[..., list[list[Answer]]], data: st.DataObject
) -> None:
    with_image, images = data.draw(st.booleans()), data.draw(st.integers(1, 5))
    prompts = make_prompts(with_image=with_image, images=images)
    prefixes = Prefixes(talker) if data.draw(st.booleans()) else None
    # Those that are the same for any prompt.
    ways = all_sorts(talker, 1)[:6]
    alone = all_alone(with_image=with_image, images=images if with_image else len(QUESTIONS))
    order = data.draw(st.permutations(range(len(prompts))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(prompts) - 1))))
    members = [order[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(prompts)], strict=True)]
    chosen = [data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=4, unique=True)) for _ in members]
    groups = [
        Group(prompts=[prompts[row] for row in rows], ways=[ways[way] for way in numbers])
        for rows, numbers in zip(members, chosen, strict=True)
    ]
    rows = data.draw(st.integers(max(map(len, members)), 6))
    done = list(answer(talker, groups, max_new_tokens=LONGEST, rows=rows, prefixes=prefixes))
    assert len(done) == len(prompts)
    for one in done:
        for place, found in one.answers.items():
            assert found == alone[chosen[one.group][place]][members[one.group][one.row]]


def test_a_branch_whose_numbers_break_leaves_its_neighbours_alone(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    blocks = tuple(range(len(talker.blocks)))
    # Δ is finite, and αΔ is not.
    huge = Intervention(delta=torch.full((1, talker.hidden_size), 1e38), alpha=10.0, blocks=blocks[1:2])
    ways: list[Way] = [None, huge, push(talker, 0.5)]
    plain, broken, half = generate_ways(talker, prompts, max_new_tokens=LONGEST, ways=ways)
    assert [list(plain.answers), list(half.answers)] == answer_alone(talker, prompts, [None, ways[2]])
    assert {one.fault for one in broken.answers} == {Fault(step=0, block=1)}


@pytest.fixture
def idle_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steering that runs and subtracts nothing."""

    def pass_on(self: Any, _block: Any, _args: Any, output: Any) -> Any:
        self.passes += 1
        return output

    monkeypatch.setattr("cmrm.branch_steering._SteerBranches.__call__", pass_on)


@pytest.mark.usefixtures("idle_hooks")
def test_an_intervention_that_moves_nothing_raises_before_an_answer_is_given(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    given_back = answer(
        talker, [Group(prompts=prompts, ways=[None, push(talker, 0.5)])], max_new_tokens=4, rows=5
    )
    with pytest.raises(RuntimeError, match="no state moved at block"):
        next(given_back)


@pytest.mark.usefixtures("idle_hooks")
def test_an_intervention_that_moves_nothing_raises_though_a_prompt_beside_it_has_no_shift(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    delta = torch.zeros(len(prompts), 1, talker.hidden_size)
    delta[1:] = 1.0
    own = Intervention(delta=delta, alpha=1.0, blocks=(0,))
    with pytest.raises(RuntimeError, match="no state moved at block 0"):
        generate_ways(talker, prompts, max_new_tokens=4, ways=[None, own])


@pytest.mark.parametrize(("dtype", "size"), [("float32", 1e-30), ("float16", 1e-9), ("bfloat16", 1e-30)])
def test_an_intervention_lost_in_rounding_is_the_plain_answer(
    llava_folder: Path, prompts: list[Prompt], dtype: str, size: float
) -> None:
    """Beside others of a prompt's ways, and beside a prompt that has no shift at all."""
    vlm = load_model(resolve_model(str(llava_folder)), dtype=dtype, device="cpu")
    delta = torch.zeros(len(prompts), 1, vlm.hidden_size)
    delta[1:] = size
    tiny = Intervention(delta=delta, alpha=1.0, blocks=(0,))
    plain, found, _ = generate_ways(vlm, prompts, max_new_tokens=4, ways=[None, tiny, push(vlm, 0.5)])
    assert found.answers == plain.answers
    assert found.proof is not None
    # A number that is exactly 0 does move, by as little.
    assert found.proof.distance[0] < size
    assert generate_apart(vlm, prompts, max_new_tokens=4, intervention=tiny).answers == plain.answers


def test_generated_tokens_are_moved_by_the_shift_that_half_precision_has_not_rounded(
    llava_folder: Path, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = load_model(resolve_model(str(llava_folder)), dtype="bfloat16", device="cpu")
    original, seen = cmrm.tree.steer_branches, []

    def watch(vlm: VisionLanguageModel, shifts: Mapping[int, torch.Tensor]) -> AbstractContextManager[None]:
        seen.append({block: shift.clone() for block, shift in shifts.items()})
        return original(vlm, shifts)

    monkeypatch.setattr("cmrm.tree.steer_branches", watch)
    delta = torch.randn(1, vlm.hidden_size, generator=torch.Generator().manual_seed(0))
    own = Intervention(delta=delta, alpha=0.3, blocks=(1,))
    generate_ways(vlm, prompts, max_new_tokens=3, ways=[own])
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
    ways: list[Way] = [None, push(talker, 0.5)]
    together = generate_ways(talker, prompts, max_new_tokens=LONGEST, ways=ways)
    assert [list(one.answers) for one in together] == answer_alone(talker, prompts, ways)
    assert list(together[0].answers) != free[0]


def test_numbers_of_forbidden_tokens_that_are_none_forbid_nothing(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = talker.model.config.text_config.vocab_size
    monkeypatch.setattr(talker.model.generation_config, "suppress_tokens", [-1, 40, size])
    monkeypatch.setattr(talker.model.generation_config, "begin_suppress_tokens", [-size, 41, 2 * size])
    (together,) = generate_ways(talker, prompts, max_new_tokens=LONGEST, ways=[None])
    assert [list(together.answers)] == answer_alone(talker, prompts, [None])


def test_models_whose_ways_cannot_grow_together_are_answered_one_way_after_the_other(
    talker: VisionLanguageModel, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = all_sorts(talker, len(prompts))
    together = generate_ways(talker, prompts, max_new_tokens=LONGEST, ways=ways)
    assert why_apart(talker) is None
    monkeypatch.setattr(talker.model.generation_config, "bad_words_ids", [[200, 201, 202]])
    assert "words of several tokens" in str(why_apart(talker))
    monkeypatch.setattr(Branches, "feed", None)
    apart = generate_ways(talker, prompts, max_new_tokens=LONGEST, ways=ways)
    assert [one.answers for one in apart] == [one.answers for one in together]


def test_backbones_whose_blocks_keep_no_token_by_itself_are_asked_one_way_after_the_other(
    talker: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = ["full_attention", "linear_attention"]
    monkeypatch.setattr(talker.model.config.text_config, "layer_types", kinds, raising=False)
    assert "linear_attention" in str(why_apart(talker))


def test_a_group_larger_than_the_rows_is_refused(talker: VisionLanguageModel, prompts: list[Prompt]) -> None:
    with pytest.raises(ValueError, match="5 prompts does not fit into 4 rows"):
        list(answer(talker, [Group(prompts=prompts, ways=[None])], max_new_tokens=4, rows=4))


def test_a_group_is_asked_for_only_when_there_is_room(
    talker: VisionLanguageModel, prompts: list[Prompt]
) -> None:
    asked = []

    def ask() -> Iterator[Group]:
        for number, prompt in enumerate(prompts):
            asked.append(number)
            yield Group(prompts=[prompt], ways=[None])

    answers = answer(talker, ask(), max_new_tokens=LONGEST, rows=2)
    next(answers)
    assert len(asked) < len(prompts)
    answers.close()  # type: ignore[attr-defined] # a generator
    assert not any(block._forward_hooks for block in talker.blocks)


def watch_passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """How many rows and branches each pass of the branches has, as they come."""
    fed: list[tuple[int, int]] = []
    original = Branches.feed

    def feed(self: Branches, part: slice, *, width: int) -> torch.Tensor:
        fed.append((part.stop - part.start, width))
        return original(self, part, width=width)

    monkeypatch.setattr(Branches, "feed", feed)
    return fed
