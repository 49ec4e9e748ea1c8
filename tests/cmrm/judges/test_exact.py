from __future__ import annotations

import pytest

from cmrm.judges import Answer, make_judge


def verdict(answer: str, reference: str | None, *, harmful: bool = False):
    (found,) = make_judge("exact").judge(
        [Answer(question="q", answer=answer, harmful=harmful, reference=reference)]
    )
    return found


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("red", "red"),
        ("Red.", "red"),
        ("the red", "red"),
        ("2", "two"),
        ("A", "A"),
        ("isn't", "is not"),
        ("1,000", "1000"),
    ],
)
def test_an_answer_that_is_the_reference_is_correct(answer, reference):
    found = verdict(answer, reference)
    assert (found.verdict, found.score, found.refused) == ("correct", 1.0, None)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("It is red", "red"), ("red red", "red"), ("", "red"), ("blue", "red"), ("B", "A")],
)
def test_an_answer_that_says_more_or_less_is_incorrect(answer, reference):
    found = verdict(answer, reference)
    assert (found.verdict, found.score) == ("incorrect", 0.0)


@pytest.mark.parametrize("reference", [None, "", " . "])
def test_without_a_reference_there_is_nothing_to_equal(reference):
    assert verdict("red", reference).verdict == "not_applicable"


def test_a_harmful_question_has_no_right_answer():
    assert verdict("red", "red", harmful=True).verdict == "not_applicable"
