from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmrm.datasets import split
from cmrm.datasets.splits import SplitRow, choose_anchors, draw
from cmrm.errors import UserError
from cmrm.prompts.sample import Sample

DATASETS = ("vlsafe", "jailbreak", "bench")
CATEGORIES = st.sampled_from([None, "conv", "detail"])
ROWS = st.lists(
    st.builds(
        SplitRow, dataset=st.sampled_from(DATASETS), category=CATEGORIES, text=st.text("abC \t", max_size=4)
    ),
    max_size=60,
)
FRACTION = st.floats(0, 1) | st.sampled_from([0.0, 0.2, 0.5, 1.0])
FRACTIONS = st.fixed_dictionaries(dict.fromkeys(DATASETS, FRACTION))
SEEDS = st.integers(0, 2**64)
laws = settings(derandomize=True, deadline=None)


def row(text: str, dataset: str = "vlsafe", category: str | None = None) -> SplitRow:
    return SplitRow(dataset=dataset, category=category, text=text)


def fold(text: str) -> str:
    return " ".join(text.casefold().split())


def stratify(rows: list[SplitRow], order: Iterable[str]) -> dict[tuple[int, str], set[str]]:
    """The units of each stratum, by the law: first data set, there the first category."""
    ranks = list(order)
    owner: dict[str, tuple[int, str]] = {}
    for one in rows:
        stratum = (ranks.index(one.dataset), one.category or "")
        owner[fold(one.text)] = min(owner.get(fold(one.text), stratum), stratum)
    strata = defaultdict(set)
    for text, stratum in owner.items():
        strata[stratum].add(text)
    return strata


def anchors_of(rows, fractions, seed) -> set[str]:
    sides = choose_anchors(rows, fractions=fractions, seed=seed)
    return {fold(one.text) for one in rows if sides.is_anchor(one.text)}


@laws
@given(ROWS, FRACTIONS, SEEDS)
def test_the_share_of_each_stratum_is_within_one_of_the_fraction(rows, fractions, seed):
    chosen = anchors_of(rows, fractions, seed)
    for (rank, _), units in stratify(rows, fractions).items():
        assert abs(len(units & chosen) - list(fractions.values())[rank] * len(units)) < 1


@laws
@given(
    ROWS, FRACTIONS, SEEDS, st.builds(row, st.text("xyz", min_size=5), st.sampled_from(DATASETS), CATEGORIES)
)
def test_a_new_text_moves_at_most_one_other_in_its_own_stratum(rows, fractions, seed, added):
    before, after = anchors_of(rows, fractions, seed), anchors_of([*rows, added], fractions, seed)
    moved = (before ^ after) - {added.text}
    own = (list(fractions).index(added.dataset), added.category or "")
    assert len(moved) <= 1
    assert moved <= stratify([*rows, added], fractions)[own]


@laws
@given(ROWS, FRACTIONS, SEEDS, st.randoms(use_true_random=False))
def test_the_order_and_the_repetition_of_rows_play_no_part(rows, fractions, seed, random):
    again = rows + random.choices(rows, k=5) if rows else []
    random.shuffle(again)
    assert anchors_of(again, fractions, seed) == anchors_of(rows, fractions, seed)


@laws
@given(ROWS, FRACTIONS, SEEDS)
def test_an_anchor_of_one_data_set_is_a_target_of_none(rows, fractions, seed):
    sides = choose_anchors(rows, fractions=fractions, seed=seed)
    samples = [
        Sample(id=str(n), dataset=one.dataset, category=one.category, question=one.text, harmful=True)
        for n, one in enumerate(rows)
    ]
    of_side: dict[bool, set[str]] = {True: set(), False: set()}
    for sample in samples:
        of_side[sides.is_anchor_sample(sample)].add(fold(sample.question))
    assert not of_side[True] & of_side[False]


@laws
@given(ROWS, SEEDS, FRACTION, FRACTION)
def test_a_larger_fraction_only_adds_anchors(rows, seed, first, second):
    low, high = sorted((first, second))
    fewer = anchors_of(rows, dict.fromkeys(DATASETS, low), seed)
    assert fewer <= anchors_of(rows, dict.fromkeys(DATASETS, high), seed)


@laws
@given(ROWS, SEEDS)
def test_nobody_or_everybody_can_be_an_anchor(rows, seed):
    assert anchors_of(rows, dict.fromkeys(DATASETS, 0.0), seed) == set()
    assert anchors_of(rows, dict.fromkeys(DATASETS, 1.0), seed) == {fold(one.text) for one in rows}


def test_a_fraction_next_to_one_never_takes_more_than_there_are():
    almost = 1.0 - 2**-53
    for n in range(1, 200):
        rows = [row(str(number)) for number in range(n)]
        assert len(anchors_of(rows, {"vlsafe": almost}, n)) in (n - 1, n)


def test_small_strata_are_right_on_average():
    rows = [row(f"{category} {n}", category=str(category)) for category in range(400) for n in range(2)]
    assert 0.16 < len(anchors_of(rows, {"vlsafe": 0.2}, 42)) / 800 < 0.24


def test_a_text_counts_in_the_first_data_set_alone():
    rows = [row("Shared  text", "bench"), row("shared TEXT", "vlsafe"), row("own", "bench")]
    # vlsafe comes first and gives no anchors, so the shared text is none although all of bench would be.
    assert anchors_of(rows, {"vlsafe": 0.0, "bench": 1.0}, 0) == {"own"}
    assert anchors_of(rows, {"bench": 1.0, "vlsafe": 0.0}, 0) == {"own", "shared text"}


def test_a_data_set_without_a_fraction_gives_no_anchors_but_its_copies_of_anchors_are_no_targets():
    rows = [row("a", "vlsafe"), row("A", "bench"), row("b", "bench")]
    sides = choose_anchors(rows, fractions={"vlsafe": 1.0}, seed=0)
    assert sides.is_anchor(" A ")
    assert not sides.is_anchor("b")


def test_samples_of_one_group_stay_together_whatever_they_ask():
    samples = [
        Sample(id=f"{group}-{n}", dataset="d", question=f"{group} {n}", harmful=True, group=f"topic {group}")
        for group in range(20)
        for n in range(3)
    ]
    anchors, targets = split(samples, fraction=0.5, seed=1)
    assert len(anchors) == 30
    assert not {sample.group for sample in anchors} & {sample.group for sample in targets}


def test_the_sides_of_a_single_set_keep_its_order_and_lose_nobody():
    samples = [Sample(id=str(n), dataset="d", question=f"question {n}", harmful=True) for n in range(100)]
    anchors, targets = split(samples, fraction=0.2, seed=42)
    assert len(anchors) in (20, 21)
    for side in (anchors, targets):
        assert all(int(one.id) < int(other.id) for one, other in pairwise(side))
    assert sorted([*anchors, *targets], key=lambda sample: int(sample.id)) == samples


def test_a_draw_is_uniform_and_deaf_to_case_and_spacing():
    drawn = [draw(f"question {n}", seed=42) for n in range(2000)]
    assert all(0 <= one < 1 for one in drawn)
    assert 0.18 < sum(one < 0.2 for one in drawn) / 2000 < 0.22
    assert draw(" WHAT  is it", seed=1) == draw("what is\tit", seed=1) != draw("what is it", seed=2)


def test_another_seed_gives_another_split():
    rows = [row(f"question {n}") for n in range(100)]
    assert anchors_of(rows, {"vlsafe": 0.5}, 0) != anchors_of(rows, {"vlsafe": 0.5}, 1)


def test_the_split_is_the_same_on_every_machine_for_good():
    rows = [row(f"question {n}") for n in range(30)]
    numbers = (3, 6, 8, 10, 17, 28)
    assert anchors_of(rows, {"vlsafe": 0.2}, 42) == {f"question {n}" for n in numbers}


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(UserError, match="from 0 to 1"):
        choose_anchors([], fractions={"d": fraction}, seed=0)
    with pytest.raises(UserError, match="from 0 to 1"):
        split([], fraction=fraction, seed=0)
