from __future__ import annotations

import json

import pytest

from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


@pytest.fixture
def problems(published):
    return published / "scienceqa" / "problems.json"


def test_the_test_problems_are_read_with_hint_choices_and_letter(read, problems):
    assert read("scienceqa", problems) == [
        Sample(
            id="1",
            dataset="d",
            question=(
                "Context: Two wugs lie on a scale.\nWhich wug is heavier?\n(A) the red wug\n(B) the blue wug\n"
                "Answer with the letter of the right choice."
            ),
            harmful=False,
            image="test/1/image.png",
            category="natural science/physics",
            reference="B",
        ),
        Sample(
            id="2",
            dataset="d",
            question=(
                "What is a blick?\n(A) a thing\n(B) a word\n(C) a place\n"
                "Answer with the letter of the right choice."
            ),
            harmful=False,
            category="language science/vocabulary",
            reference="A",
        ),
    ]


def test_another_split_is_chosen_by_name(read, problems):
    assert [row.id for row in read("scienceqa", problems, split="train")] == ["3"]


def test_a_split_that_no_problem_has_is_refused_with_those_there_are(read, problems):
    with pytest.raises(UserError, match=r"'test' \(2\), 'train' \(1\)"):
        read("scienceqa", problems, split="minitest")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"choices": None}, "'choices' is null"),
        ({"choices": []}, "'choices' is empty"),
        ({"choices": ["a", {"b": 3}]}, "'choices' is an object"),
        ({"choices": ["a"] * 27}, "more than there are letters"),
        ({"answer": 3}, "'answer' is 3, but there are 3 choices"),
        ({"answer": -1}, "'answer' is -1"),
        ({"answer": "B"}, "'answer' is a text"),
        ({"answer": True}, "'answer' is true or false"),
        ({"split": None}, "no field 'split'"),
        ({"split": 3}, "'split' is a number"),
        ({"hint": 3}, "'hint' is a number"),
        ({"image": 3}, "'image' is a number"),
        ({"topic": []}, "'topic' is a list"),
    ],
)
def test_a_problem_that_cannot_be_asked_is_rejected_by_its_number(read, problems, changes, reason):
    entries = json.loads(problems.read_text())
    entries["2"].update(changes)
    problems.write_text(json.dumps(entries))
    first, second = read("scienceqa", problems)
    assert isinstance(first, Sample)
    assert isinstance(second, Rejected)
    assert second.reason.startswith("entry '2': ")
    assert reason in second.reason
    assert second.id == "2"
