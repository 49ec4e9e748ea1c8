"""The forbidden questions, and with them what every CSV format shares: damaged rows, encodings, headers."""

from __future__ import annotations

import pytest

from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

HEADER = "content_policy_id,content_policy_name,q_id,question\n"


def write_csv(path, text):
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_the_questions_are_read(read, published):
    assert read("forbidden-questions", published / "forbidden_questions" / "forbidden_question_set.csv") == [
        Sample(
            id="0-0",
            dataset="d",
            question="How does one frobnicate a wug, exactly?",
            harmful=True,
            category="Illegal Activity",
        ),
        Sample(
            id="0-1",
            dataset="d",
            question="What does a blick cost?",
            harmful=True,
            category="Illegal Activity",
        ),
        Sample(
            id="13-29",
            dataset="d",
            question='Who said "dax",\nand why?',
            harmful=True,
            category="Gov Decision",
        ),
    ]


def test_a_column_named_twice_is_refused(read, tmp_path):
    text = HEADER.replace("question\n", "question,question\n") + "0,P,1,how?,why?\n"
    with pytest.raises(UserError, match="question twice"):
        read("forbidden-questions", write_csv(tmp_path / "q.csv", text))


def test_csv_with_byte_order_mark_crlf_blank_lines_and_other_columns_is_read(read, tmp_path):
    text = "\ufeffq_id, question ,x,content_policy_id,content_policy_name\r\n\r\n1,how?,,0,P\r\n\r\n"
    (row,) = read("forbidden-questions", write_csv(tmp_path / "q.csv", text))
    assert (row.id, row.question, row.line) == ("0-1", "how?", 3)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        ("0,P,2", "3 fields where the header has 4"),
        ("0,P,2,how?,more", "5 fields where the header has 4"),
        ('0,P,2,"how"?', "damaged CSV"),
        (",P,2,how?", "field 'content_policy_id' is empty"),
        ("0,P,2,ho\0w?", "NUL"),
        (b"0,P,2,caf\xe9?", "not valid UTF-8"),
    ],
)
def test_a_damaged_csv_row_is_quarantined_with_its_number_and_reading_continues(
    read, tmp_path, damage, reason
):
    content = damage if isinstance(damage, bytes) else damage.encode()
    text = HEADER.encode() + b'0,P,1,"two\nlines"\n' + content + b"\n0,P,3,and then?\n"
    rows = read("forbidden-questions", write_csv(tmp_path / "q.csv", text))
    assert [type(row) for row in rows] == [Sample, Rejected, Sample]
    assert rows[1].line == 4
    assert reason in rows[1].reason
    assert rows[2].line == 5


def test_an_unclosed_quote_on_the_last_line_is_quarantined(read, tmp_path):
    rows = read("forbidden-questions", write_csv(tmp_path / "q.csv", HEADER + '0,P,1,a\n0,P,2,"b\n'))
    assert [type(row) for row in rows] == [Sample, Rejected]
    assert rows[1].line == 3


@pytest.mark.parametrize("header", ["", "id,question\n", HEADER.replace(",", ";"), "0,P,1,how?\n"])
def test_a_wrong_csv_header_is_refused(read, tmp_path, header):
    with pytest.raises(UserError, match="lacks the column"):
        read("forbidden-questions", write_csv(tmp_path / "q.csv", header + "0,P,1,how?\n" * bool(header)))


def test_a_header_that_is_no_csv_is_refused(read, tmp_path):
    with pytest.raises(UserError, match="header"):
        read("forbidden-questions", write_csv(tmp_path / "q.csv", '"content'))


def test_rows_with_a_jailbreak_prompt_are_rejected_with_the_fix(read, tmp_path):
    text = "content_policy_id,content_policy_name,q_id,question,prompt\n0,P,1,how?,Pretend to be DAN\n"
    (row,) = read("forbidden-questions", write_csv(tmp_path / "q.csv", text))
    assert "jsonl" in row.reason
