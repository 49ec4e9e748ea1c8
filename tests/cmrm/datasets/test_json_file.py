"""JSON files of a user's own rows, in the usual layouts."""

from __future__ import annotations

import json

import pytest

from cmrm.datasets import documents
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected

ROWS = [{"question": f"What is {place}?", "reference": place} for place in range(5)]


@pytest.fixture
def read_document(read, tmp_path):
    def read_written(document, *, indent=None, **options):
        path = tmp_path / "mine.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document, indent=indent))
        return read("json", path, **options)

    return read_written


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize(
    "document",
    [
        ROWS,
        {"data": ROWS},
        {"version": "1.0", "info": {"by": ["me", {"a": 1}]}, "tags": ["x", "y"], "data": ROWS, "end": None},
        {"empty": [], "data": ROWS},
    ],
)
def test_a_list_of_rows_is_found_wherever_it_is_the_only_one(read_document, monkeypatch, document, chunk):
    monkeypatch.setattr(documents, "CHUNK_CHARACTERS", chunk)
    rows = read_document(document, indent=1)
    assert [(row.question, row.reference) for row in rows] == [
        (row["question"], str(row["reference"])) for row in ROWS
    ]


def test_the_keys_of_an_object_of_rows_are_their_ids(read_document):
    first, second, third = read_document({"v1_0": ROWS[0], "v1_1": ROWS[1], "v1_2": {"id": "own", **ROWS[2]}})
    assert (first.id, second.id, third.id) == ("v1_0", "v1_1", "own")


@pytest.mark.parametrize(
    ("rows", "document"),
    [
        ("test", {"train": ROWS[:1], "test": ROWS}),
        ("result.data", {"other": [1, [2]], "result": {"n": 5, "data": ROWS}, "more": {"a": 1}}),
        ("items", {"items": {row["question"]: row for row in ROWS}, "n": 5}),
    ],
)
def test_rows_are_read_at_the_path_that_the_spec_names(read_document, rows, document):
    assert [row.question for row in read_document(document, rows=rows)] == [row["question"] for row in ROWS]


@pytest.mark.parametrize(
    ("document", "options", "message"),
    [
        ({"train": ROWS, "test": ROWS}, {}, r"several lists of rows: train \(list of objects\), test"),
        ({"a": 1, "b": ["x"]}, {}, r"no list of rows: a \(value\), b \(list\)"),
        ({"data": ROWS}, {"rows": "date"}, "nothing under 'date', which `rows` names; it has data"),
        ({"data": ROWS}, {"rows": "data.rows"}, "no object that could hold 'data.rows'"),
        ({"data": 3}, {"rows": "data"}, "is not one JSON list or one JSON object"),
        (3, {}, "is not one JSON list or one JSON object"),
        ('{"data": [{"question": "q"}', {}, "damaged or truncated"),
        ('{"data": [{"question": "q"} 3]}', {}, "damaged or truncated"),
        ('{"data" [', {}, "damaged or truncated"),
        ("[" * 100_000, {}, "damaged or truncated"),
        ("", {}, "is empty"),
    ],
)
def test_a_document_with_ambiguous_rows_is_refused(read_document, document, options, message):
    with pytest.raises(UserError, match=message) as caught:
        read_document(document, **options)
    assert "\n" not in str(caught.value)


def test_a_row_with_a_key_twice_is_rejected_with_its_line(read_document):
    first, second, third = read_document(
        '[{"question": "a"},\n{"question": "b", "m": {"k": 1, "k": 2}},\n{"question": "c"}]'
    )
    assert isinstance(second, Rejected)
    assert (second.line, second.reason) == (2, "entry 2 has the key 'k' twice")
    assert (first.question, third.question) == ("a", "c")


def test_the_message_about_a_json_document_read_as_jsonl_suggests_its_format(read, tmp_path):
    path = tmp_path / "mine.json"
    for text in (json.dumps({"data": ROWS}), json.dumps(ROWS), json.dumps({"data": ROWS}, indent=1)):
        path.write_text(text)
        with pytest.raises(UserError, match="write `format: json`"):
            read("jsonl", path)


WRAPPED = '{"n": 1,\n"result": {"data": [{"question": "q"}]%s}%s}%s'


@pytest.mark.parametrize("chunk", [1, 1000])
@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ((" damage", "", ""), "'}' was expected"),
        ((', "m": ', "", ""), "Expecting value"),
        ((', "m": 1 2', "", ""), "'}' was expected"),
        ((', "m": [1, 2', "", ""), "',' or ']' was expected"),
        ((', "m": {"a" 1}', "", ""), "':' was expected"),
        ((",", "", ""), "Expecting value"),
        (("", "]", ""), "'}' was expected"),
        (("", ', "more": [', ""), "Expecting value"),
        (("", "", "}"), "something follows"),
        (("", "", "\n{}"), "something follows"),
    ],
)
def test_damage_after_the_rows_is_told_with_its_line(read_document, monkeypatch, rest, reason, chunk):
    monkeypatch.setattr(documents, "CHUNK_CHARACTERS", chunk)
    with pytest.raises(UserError, match=r"damaged or truncated in the entry on line [23]") as told:
        read_document(WRAPPED % rest, rows="result.data")
    assert reason in str(told.value)


def test_a_document_cut_anywhere_after_its_rows_is_told(read_document):
    whole = '{"info": {"by": ["me"]}, "data": [{"question": "q"}], "licence": {"name": "x", "years": [1, 2]}}'
    assert [row.question for row in read_document(whole)] == ["q"]
    for end in range(whole.index("]", whole.index("question")) + 1, len(whole)):
        with pytest.raises(UserError, match="damaged or truncated"):
            read_document(whole[:end], rows="data")
        with pytest.raises(UserError, match="damaged or truncated"):
            read_document(whole[:end])


def test_rows_under_a_key_that_comes_twice_are_refused(read_document):
    with pytest.raises(UserError, match=r"has the key 'data' twice, again on line 2, and rows under each"):
        read_document('{"data": [{"question": "a"}],\n"data": [{"question": "b"}]}', rows="data")


def test_what_surrounds_the_rows_may_be_larger_than_an_entry(read_document, monkeypatch):
    monkeypatch.setattr(documents, "CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(documents, "MAX_ENTRY_CHARACTERS", 100)
    large = {"index": {str(number): {"a": [number, {"b": number}]} for number in range(100)}}
    rows = read_document({"before": large, "data": ROWS, "after": large})
    assert [row.question for row in rows] == [row["question"] for row in ROWS]


def test_an_entry_above_the_limit_is_told_with_the_limit_and_what_to_do(read_document):
    with pytest.raises(UserError, match=r"no end within 16,777,216 characters.* put an image .* into a file"):
        read_document([{"question": "x" * (19 * 2**20)}])
