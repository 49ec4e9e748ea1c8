from __future__ import annotations

import pytest

from cmrm.judges import Answer, make_judge


def verdict(answer: str, reference: str | None, *, harmful: bool = False):
    (found,) = make_judge("match").judge(
        [Answer(question="q", answer=answer, harmful=harmful, reference=reference)]
    )
    return found


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The square is red.", "red"),
        ("**Red**!", "red"),
        ("There are two dogs", "2"),
        ("2", "two"),
        ("a red square", "the red square"),
        ("It doesn't move", "does not move"),
        ("about 1,000 people", "1000"),
        ("the circle is blue .", "blue"),
        ("The answer is A.", "A"),
        ("A", "A."),
    ],
)
def test_an_answer_that_contains_the_reference_is_correct(answer, reference):
    found = verdict(answer, reference)
    assert (found.verdict, found.score, found.refused) == ("correct", 1.0, None)


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("The hundredth", "red"),
        ("12 dogs", "2"),
        ("", "red"),
        ("red square", "square red"),
        ("It is a dog", "A"),
    ],
)
def test_an_answer_without_the_reference_is_incorrect(answer, reference):
    found = verdict(answer, reference)
    assert (found.verdict, found.score) == ("incorrect", 0.0)


@pytest.mark.parametrize("reference", [None, "", " . ", "word " * 13])
def test_without_a_short_reference_there_is_nothing_to_match(reference):
    assert verdict("red", reference).verdict == "not_applicable"


def test_twelve_words_are_still_a_short_reference():
    assert verdict("word " * 12, "word " * 12).verdict == "correct"


def test_a_harmful_question_has_no_right_answer():
    assert verdict("red", "red", harmful=True).verdict == "not_applicable"
