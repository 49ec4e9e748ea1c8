from __future__ import annotations

import pytest

from cmrm.datasets.selection import keep_categories
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected


@pytest.fixture
def questions(published):
    return published / "forbidden_questions" / "forbidden_question_set.csv"


def test_the_named_categories_are_kept_in_order(read, questions):
    assert [row.id for row in read("forbidden-questions", questions, categories=["Illegal Activity"])] == [
        "0-0",
        "0-1",
    ]
    both = read("forbidden-questions", questions, categories=["Gov Decision", "Illegal Activity"])
    assert both == read("forbidden-questions", questions)


def test_a_category_that_no_sample_has_is_refused_with_those_there_are(read, questions):
    with pytest.raises(
        UserError, match=r"'illegal activity'; there are 'Gov Decision' \(1\), 'Illegal Activity' \(2\)"
    ):
        read("forbidden-questions", questions, categories=["illegal activity", "Gov Decision"])


def test_rejected_rows_pass_whatever_is_chosen(read, questions):
    questions.write_text(questions.read_text() + "0,Illegal Activity,7\n")
    rows = read("forbidden-questions", questions, categories=["Gov Decision"])
    assert [isinstance(row, Rejected) for row in rows] == [False, True]


def test_samples_without_category_are_left_out_and_said_to_have_none(read, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"question": "a"}\n{"question": "b", "category": "c"}\n')
    assert [row.question for row in read("jsonl", path, categories=["c"])] == ["b"]
    path.write_text('{"question": "a"}\n')
    with pytest.raises(UserError, match="there are no categories at all"):
        read("jsonl", path, categories=["c"])


def test_of_very_many_categories_the_most_frequent_are_named(read, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f'{{"question": "q{n}", "category": "c{n // 2}"}}\n' for n in range(161)))
    with pytest.raises(UserError, match=r"'c39' \(2\).* and 41 more"):
        read("jsonl", path, categories=["x"])


@pytest.mark.parametrize("categories", [[], "Gov Decision", [3]])
def test_what_is_no_list_of_names_is_refused_at_once(categories):
    with pytest.raises(UserError, match="list of category names"):
        keep_categories([], categories, dataset="d")
