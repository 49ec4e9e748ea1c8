from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmrm.datasets import split
from cmrm.errors import UserError
from cmrm.samples import Sample

QUESTIONS = st.lists(st.text(max_size=12), max_size=40)
FRACTIONS = st.floats(0, 1)
SEEDS = st.integers(0, 2**64)


def make(questions: list[str]) -> list[Sample]:
    return [
        Sample(id=str(number), dataset="d", question=question, harmful=True)
        for number, question in enumerate(questions)
    ]


def normalise(sample: Sample) -> str:
    return " ".join(sample.question.casefold().split())


@settings(derandomize=True, deadline=None)
@given(QUESTIONS, FRACTIONS, SEEDS)
def test_the_sides_are_disjoint_by_id_and_by_text_and_lose_nobody(questions, fraction, seed):
    samples = make(questions)
    anchors, targets = split(samples, fraction=fraction, seed=seed)
    assert not {sample.id for sample in anchors} & {sample.id for sample in targets}
    assert not {normalise(sample) for sample in anchors} & {normalise(sample) for sample in targets}
    assert sorted([*anchors, *targets], key=lambda sample: int(sample.id)) == samples


@settings(derandomize=True, deadline=None)
@given(QUESTIONS, QUESTIONS, FRACTIONS, SEEDS)
def test_rows_added_move_nobody(before, added, fraction, seed):
    samples = make(before)
    alone, _ = split(samples, fraction=fraction, seed=seed)
    more = [Sample(id=f"+{n}", dataset="d", question=q, harmful=True) for n, q in enumerate(added)]
    together, _ = split([*more, *samples], fraction=fraction, seed=seed)
    assert [sample for sample in together if not sample.id.startswith("+")] == alone


@settings(derandomize=True, deadline=None)
@given(QUESTIONS, SEEDS, FRACTIONS, FRACTIONS)
def test_a_larger_fraction_only_adds_anchors(questions, seed, first, second):
    low, high = sorted((first, second))
    fewer, _ = split(make(questions), fraction=low, seed=seed)
    more, _ = split(make(questions), fraction=high, seed=seed)
    assert {sample.id for sample in fewer} <= {sample.id for sample in more}


def test_case_and_spacing_do_not_separate_equal_questions():
    samples = make(["What  is it?", " what is\tIT? ", "WHAT IS IT?"])
    for seed in range(20):
        anchors, _ = split(samples, fraction=0.5, seed=seed)
        assert len(anchors) in (0, 3)


def test_the_share_of_anchors_is_the_fraction():
    anchors, targets = split(make([f"question {n}" for n in range(5000)]), fraction=0.2, seed=42)
    assert 0.18 < len(anchors) / 5000 < 0.22
    assert [int(sample.id) for sample in targets] == sorted(int(sample.id) for sample in targets)


def test_another_seed_gives_another_split():
    samples = make([f"question {n}" for n in range(100)])
    assert split(samples, fraction=0.5, seed=0) != split(samples, fraction=0.5, seed=1)


def test_the_split_is_the_same_on_every_machine_for_good():
    anchors, _ = split(make([f"question {n}" for n in range(30)]), fraction=0.2, seed=42)
    assert [sample.id for sample in anchors] == ["6", "8", "17"]


def test_nobody_or_everybody_can_be_an_anchor():
    samples = make(["a", "b", "c"])
    assert split(samples, fraction=0.0, seed=0) == ([], samples)
    assert split(samples, fraction=1.0, seed=0) == (samples, [])


@pytest.mark.parametrize("fraction", [-0.1, 1.1, float("nan")])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(UserError, match="from 0 to 1"):
        split([], fraction=fraction, seed=0)
