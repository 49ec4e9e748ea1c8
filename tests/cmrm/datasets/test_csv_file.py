"""Tables by any delimiter, and long cells."""

from __future__ import annotations

import csv

import pytest

from cmrm.errors import UserError


@pytest.mark.parametrize(("delimiter", "written"), [(";", ";"), ("\t", r"\\t"), ("|", "|")])
def test_another_delimiter_is_offered_and_read(read, tmp_path, delimiter, written):
    path = tmp_path / "mine.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(
            [["question", "caption"], [f"a, b{delimiter} c", "x"], ["d", ""]]
        )
    with pytest.raises(UserError) as caught:
        read("csv", path)
    assert f'write `delimiter: "{written.replace(chr(92) * 2, chr(92))}"`' in str(caught.value)
    first, second = read("csv", path, delimiter=delimiter)
    assert (first.question, first.caption, second.caption) == (f"a, b{delimiter} c", "x", None)


@pytest.mark.parametrize("suffix", ["tsv", "TSV", "tab"])
def test_a_file_named_so_is_separated_by_tabs(read, tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    path.write_text("question\tcaption\nWhat, then?\ta wug\n")
    (row,) = read("csv", path)
    assert (row.question, row.caption) == ("What, then?", "a wug")


@pytest.mark.parametrize("delimiter", ["", ";;", '"', "\n"])
def test_a_delimiter_that_is_none_is_refused(read, tmp_path, delimiter):
    path = tmp_path / "mine.csv"
    path.write_text("question\nq\n")
    with pytest.raises(UserError, match="give one character"):
        read("csv", path, delimiter=delimiter)


def test_a_long_cell_is_read_whole(read, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text(f"question,context\nq,{'x' * 1_000_000}\n")
    (row,) = read("csv", path)
    assert row.context == "x" * 1_000_000


def test_a_column_alone_may_have_any_name_that_is_asked_for(read, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("a;b\nWhat?\n")
    assert [row.question for row in read("csv", path, columns={"question": "a;b"})] == ["What?"]
