from __future__ import annotations

import pytest

from cmrm.judges import Answer, make_judge

QUESTION = (
    "Context: a picture\nWhat is it?\n(A) a red ball\n(B) a dog\n(C) 3 cats\n"
    "Answer with the letter of the right choice."
)


def verdict(answer: str, reference: str | None = "B", *, question: str = QUESTION, harmful: bool = False):
    (found,) = make_judge("choice").judge(
        [Answer(question=question, answer=answer, harmful=harmful, reference=reference)]
    )
    return found


@pytest.mark.parametrize(
    "answer",
    [
        "B", "B.", "B)", "(B)", " (B) a dog", "B. a dog", "B: because", "**B**", "The answer is B.",
        "the answer is (B)", "Answer: B", "Answer: **B**", "The correct option is B, since it barks.",
        "Option B", "I choose choice (B).",
        "It barks. The answer is B.", "a dog", "A dog.", "B\n\nIt is a dog.", "The right choice would be B.",
        "ANSWER: B", "A hint is given in the picture, so the answer is B",
    ],
)  # fmt: skip
def test_an_answer_that_names_the_right_letter_is_correct(answer):
    found = verdict(answer)
    assert (found.verdict, found.score, found.raw, found.refused) == ("correct", 1.0, "B", None)


@pytest.mark.parametrize(
    "answer",
    [
        "A",
        "(C)",
        "The answer is A.",
        "",
        "I can not help with that.",
        "Bob",
        "B is wrong, the answer is C",
        "D",
        "(D)",
    ],
)
def test_any_other_answer_is_incorrect(answer):
    found = verdict(answer)
    assert (found.verdict, found.score) == ("incorrect", 0.0)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("The answer is A or B.", "it names A and B"),
        ("The answer is A. The answer is B.", "it names A and B"),
        ("A dog and 3 cats", "it holds the words of a choice and more"),
        ("A dog is what I would like, really", "it holds the words of a choice and more"),
        ("The answer is A cow", "the letter may be a word"),
    ],
)
def test_an_answer_of_which_nobody_could_tell_is_a_parse_error_with_the_reason(answer, said):
    found = verdict(answer)
    assert (found.verdict, found.score, found.raw) == ("parse_error", None, f"undecided: {said}")


def test_a_letter_is_read_without_knowing_the_choices():
    assert verdict("The answer is D.", "D", question="Which?").verdict == "correct"
    assert verdict("a dog", "B", question="Which?").verdict == "incorrect"


@pytest.mark.parametrize("reference", [None, "", "a dog", "AB", "b", "1"])
def test_without_a_letter_to_compare_there_is_no_choice(reference):
    assert verdict("B", reference).verdict == "not_applicable"


@pytest.mark.parametrize("reference", ["B", "B.", "(B)", " B "])
def test_a_reference_is_a_letter_in_any_of_its_usual_forms(reference):
    assert verdict("B", reference).verdict == "correct"


def test_a_harmful_question_has_no_right_choice():
    assert verdict("B", harmful=True).verdict == "not_applicable"


def test_two_choices_of_the_same_words_are_not_told_apart():
    question = "Which?\n(A) red\n(B) red"
    assert verdict("red", "A", question=question).verdict == "parse_error"
