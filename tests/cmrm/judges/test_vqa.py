"""The judge vqa gives the accuracy that VQA's own evaluation gives."""

from __future__ import annotations

import json
from fractions import Fraction

import pytest

from cmrm.judges import Answer, make_judge


def judge(answer: str, references: object, *, kind: str = "vqa", harmful: bool = False):
    reference = references if references is None or isinstance(references, str) else json.dumps(references)
    (found,) = make_judge(kind).judge(
        [Answer(question="q", answer=answer, harmful=harmful, reference=reference)]
    )
    return found


def count_by_hand(answer: str, references: list[str]) -> float:
    """The published formula as it stands: each reference is left out once."""
    scores = []
    for place in range(len(references)):
        others = references[:place] + references[place + 1 :]
        scores.append(min(Fraction(1), Fraction(others.count(answer), 3)))
    return float(100 * sum(scores) / len(scores))


@pytest.mark.parametrize("matches", range(11))
def test_the_score_is_the_mean_over_all_but_one_reference(matches):
    references = ["red"] * matches + [f"colour {letter}" for letter in "bcdefghijk"[matches:]]
    found = judge("red", references)
    assert (found.verdict, found.refused) == ("scored", None)
    assert found.score == count_by_hand("red", references)


def test_worked_examples_have_the_known_scores():
    expected = {0: 0, 1: 30, 2: 60, 3: 90, 4: 100, 10: 100}
    found = {n: judge("two", ["2"] * n + ["many"] * (10 - n)).score for n in expected}
    assert found == expected


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        ("Red.", "red"),
        ("the red wug", "red wug"),
        ("Two", "2"),
        ("none", "0"),
        ("dont know", "don't know"),
        ("wouldn'tve", "wouldn't've"),
        ("1,000", "1000"),
        ("t-shirt", "t shirt"),
        ("red / blue", "red blue"),
        ("red, blue", "red blue"),
        ("3.5", "3.5"),
        ("it is\nred", "it is red"),
        ("wug?", "wug"),
    ],
)
def test_answers_are_compared_without_signs_articles_and_number_words(answer, reference):
    assert judge(answer, [reference] * 4 + ["else"] * 6).score == 100
    assert judge(reference, [answer] * 4 + ["else"] * 6).score == 100


@pytest.mark.parametrize(
    ("answer", "reference"),
    [("It is red", "red"), ("reds", "red"), ("3.5", "35"), ("eleven", "11"), ("", "red"), ("it's", "it is")],
)
def test_an_answer_that_says_more_or_something_else_matches_nobody(answer, reference):
    assert judge(answer, [reference] * 10).score == 0


def test_an_answer_is_normalised_also_where_all_people_agree():
    assert judge("Yes.", ["yes"] * 10).score == 100


@pytest.mark.parametrize(
    "references", [None, "", "red", "[red]", "[1, 2, 3, 4]", "{}", '["red"', [], ["red"] * 3, "[" * 20_000]
)
def test_without_a_list_of_references_there_is_no_accuracy(references):
    assert judge("red", references).verdict == "not_applicable"


def test_a_harmful_question_has_no_accuracy():
    assert judge("red", ["red"] * 10, harmful=True).verdict == "not_applicable"


@pytest.mark.parametrize("kind", ["match", "exact", "overlap", "choice"])
def test_the_judges_of_one_reference_do_not_apply_to_ten(kind):
    assert judge("red", ["red"] * 10, kind=kind).verdict == "not_applicable"


@pytest.mark.parametrize("kind", ["match", "exact", "overlap"])
@pytest.mark.parametrize("reference", ["[red]", '["red"]', '["red", 2]', '["red"'])
def test_one_reference_in_brackets_is_still_one(kind, reference):
    assert judge("red", reference, kind=kind).verdict != "not_applicable"
