"""What every JSONL format shares: damaged lines, encodings, and what is no JSONL at all."""

from __future__ import annotations

import json

import pytest

from cmrm.datasets import read_dataset
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


def read(path, **options):
    return list(read_dataset("jsonl", path, dataset="mine", **options))


@pytest.fixture
def write(tmp_path):
    def write_bytes(content: str | bytes):
        path = tmp_path / "mine.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_bytes


GOOD = '{"id": "a", "question": "what is it?"}'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"id": "b", "question": "what', "not valid JSON"),
        ("nonsense", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"id": ' + "9" * 5000 + ', "question": "q"}', "not valid JSON"),
        ('["b", "what?"]', "a list where a JSON object"),
        ("null", "null where a JSON object"),
        ('"text"', "a text where a JSON object"),
        ('{"id": "b"}', "no field 'question'"),
        ('{"id": "b", "question": null}', "no field 'question'"),
        ('{"id": "b", "question": ["what?", "why?"]}', "field 'question' is a list of 2, not one text"),
        ('{"id": "b", "question": [["what?"]]}', "field 'question' is a list of lists, not one text"),
        ('{"id": "b", "question": []}', "no field 'question'"),
        ('{"id": "b", "question": {"q": 1}}', "field 'question' is an object, not text"),
        ('{"id": {"a": 1}, "question": "q"}', "field 'id' is an object, not text"),
        ('{"id": " ", "question": "q"}', "field 'id' is empty"),
        ('{"id": "b", "question": "q", "image": {"a": 1}}', "field 'image' is an object, not text"),
        ('{"id": "b", "question": "q", "harmful": "perhaps"}', "neither true nor false"),
        ('{"id": "b", "question": "q", "harmful": 2}', "neither true nor false"),
        ('{"id": "b", "question": "q", "question": "p"}', "key 'question' stands there twice"),
        ('{"id": "b", "question": "q", "meta": [{"a": 1, "a": 1}]}', "key 'a' stands there twice"),
        ('{"id": "b", "question": "wh\\u0000at?"}', "NUL"),
        ('{"id": "b", "question": "wh\0at?"}', "not valid JSON"),
        ('{"id": "b", "question": "\\ud800"}', "not valid UTF-8"),
        (b'{"id": "b", "question": "caf\xe9"}', "not valid UTF-8"),
    ],
)
def test_a_damaged_line_is_quarantined_with_its_number_and_reading_continues(write, line, reason):
    content = line if isinstance(line, bytes) else line.encode()
    rows = read(write(GOOD.encode() + b"\n\n" + content + b"\n" + GOOD.replace('"a"', '"c"').encode()))
    assert [type(row) for row in rows] == [Sample, Rejected, Sample]
    assert (rows[1].line, rows[1].dataset) == (3, "mine")
    assert reason in rows[1].reason
    assert len(rows[1].raw) <= 500
    assert "\0" not in rows[1].raw
    assert rows[1].raw.encode()
    assert rows[2].line == 4


def test_a_rejected_row_keeps_its_id(write):
    (row,) = read(write('{"id": 12, "question": []}'))
    assert row.id == "12"


def test_a_last_line_without_its_end_is_read(write):
    assert len(read(write(GOOD))) == 1


def test_byte_order_mark_crlf_and_blank_lines_change_nothing(write):
    plain = read(write(f"{GOOD}\n"))
    assert read(write(b"\xef\xbb\xbf" + GOOD.encode() + b"\r\n\r\n   \r\n")) == plain


def test_a_line_too_long_for_memory_is_quarantined(write, monkeypatch):
    monkeypatch.setattr("cmrm.datasets.rows.MAX_LINE_BYTES", 100)
    rows = read(write('{"id": "b", "question": "' + "x" * 1000 + '"}\n' + GOOD))
    assert [type(row) for row in rows] == [Rejected, Sample]
    assert rows[1].line == 2


@pytest.mark.parametrize("content", [f"[{GOOD}]", f"\n  [\n{GOOD}\n]", '{\n"id": "a"\n}'])
def test_one_json_document_is_no_jsonl(write, content):
    with pytest.raises(UserError, match="one object a line"):
        read(write(content))


def test_utf16_is_named_as_such(write):
    with pytest.raises(UserError, match="UTF-8"):
        read(write(GOOD.encode("utf-16")))


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)


@pytest.mark.parametrize("content", ["", "\n \r\n", "\ufeff"])
def test_a_file_without_rows_is_refused(write, content):
    with pytest.raises(UserError, match="holds no rows"):
        read(write(content))


def test_columns_of_any_name_are_mapped(write):
    path = write(json.dumps({"n": 1, "prompt": "q?", "img": "a.png", "gold": "red", "bad": False}))
    columns = {"id": "n", "question": "prompt", "image": "img", "reference": "gold", "harmful": "bad"}
    assert read(path, columns=columns) == [
        Sample(id="1", dataset="mine", question="q?", harmful=False, image="a.png", reference="red")
    ]


def test_harmful_holds_for_rows_that_do_not_say(write):
    path = write(f'{GOOD}\n{{"id": "b", "question": "q", "harmful": true}}')
    assert [row.harmful for row in read(path, harmful=False)] == [False, True]
    assert [row.harmful for row in read(path)] == [True, True]


def test_an_id_made_from_content_does_not_move_with_the_line(write):
    (alone,) = read(write('{"question": "q", "image": "sub/a.png"}'))
    moved = read(write('{"question": "p"}\n{"question": "q", "image": "sub/a.png"}'))
    assert moved[1].id == alone.id
    assert alone.id.startswith("a-")
    assert moved[0].id != moved[1].id


def test_an_empty_question_passes_the_reader_for_screening_to_judge(write):
    (row,) = read(write('{"id": "a", "question": ""}'))
    assert isinstance(row, Sample)


def test_blank_optional_fields_are_none(write):
    (row,) = read(write('{"id": "a", "question": "q", "image": " ", "caption": "", "category": null}'))
    assert (row.image, row.caption, row.category) == (None, None, None)


@pytest.mark.parametrize("columns", [{"qestion": "q"}, {"question": 3}])
def test_columns_that_mean_nothing_are_refused(write, columns):
    with pytest.raises(UserError, match="columns"):
        read(write(GOOD), columns=columns)


def test_a_line_above_the_limit_is_rejected_with_the_limit_and_what_to_do(write):
    bad, good = read(write('{"id": "b", "question": "' + "x" * 17 * 2**20 + '"}\n' + GOOD))
    assert isinstance(bad, Rejected)
    assert (bad.line, good.line) == (1, 2)
    assert "longer than 16,777,216 bytes" in bad.reason
    assert "put its image into a file" in bad.reason


def test_a_line_of_the_most_bytes_is_read_whole(write, monkeypatch):
    monkeypatch.setattr("cmrm.datasets.rows.MAX_LINE_BYTES", len(GOOD))
    assert [type(row) for row in read(write(GOOD))] == [Sample]
    assert [type(row) for row in read(write(f"{GOOD}\n{GOOD}"))] == [Sample, Sample]
