"""Quotes in tables that are never closed, or closed too late; delimiters that a file names; lines too long to read."""

from __future__ import annotations

import csv
import io

import pytest

from cmrm.datasets import csv_rows
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

ROWS = [(f"{number}", f"what is {number}?") for number in range(3, 60)]


def write(rows, *, delimiter=","):
    sink = io.StringIO()
    csv.writer(sink, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return sink.getvalue()


@pytest.fixture
def read_text(read, tmp_path):
    def read_written(text, *, name="mine.csv", **options):
        path = tmp_path / name
        path.write_text(text)
        return read("csv", path, **options)

    return read_written


@pytest.mark.parametrize(("name", "delimiter"), [("mine.csv", ","), ("mine.tsv", "\t")])
def test_a_quote_that_takes_the_rest_of_the_file_is_refused_with_its_line(read_text, name, delimiter):
    text = write([("id", "question"), ("1", "a"), *ROWS], delimiter=delimiter)
    for number in (3, 4, 59):
        opened = text.replace(f"{number}{delimiter}", f'{number}{delimiter}"', 1)
        lines = opened.splitlines()
        line = next(place for place, one in enumerate(lines, start=1) if '"' in one)
        if line == len(lines):
            (*_, last) = read_text(opened, name=name)
            assert isinstance(last, Rejected)
            assert (last.line, "never closed" in last.reason) == (line, True)
            continue
        with pytest.raises(UserError) as told:
            read_text(opened, name=name)
        assert f"the quote opened on line {line} is never closed" in str(told.value)
        assert f"lines {line} to {len(lines)}" in str(told.value)
        assert "\n" not in str(told.value)


def test_the_line_is_that_of_the_quote_and_not_of_its_row(read_text):
    with pytest.raises(UserError, match="the quote opened on line 3 is never closed and takes lines 2 to 5"):
        read_text('caption,question\n"one\ntwo","three\nb,c\nd,e\n')


def test_a_cell_of_very_many_lines_is_refused_with_its_line(read_text, monkeypatch):
    monkeypatch.setattr(csv_rows, "MAX_ROW_LINES", 40)
    text = write([("id", "question"), ("1", "\n".join(["a line, with a comma"] * 40)), ("2", "b")])
    assert [row.id for row in read_text(text)] == ["1", "2"]
    longer = text.replace('"a line', '"one more line\na line', 1)
    with pytest.raises(UserError, match=r"the row on line 2 is still open on line 42.* 40 lines"):
        read_text(longer)


def test_rows_between_two_stray_quotes_are_rejected_and_not_read_as_one_question(read_text):
    text = write([("id", "question"), ("1", "a"), *ROWS]).replace("3,what", '3,"what', 1)
    first, swallowed, last = read_text(text + '60,a screen of 5"\n61,b\n')
    assert (first.id, last.id) == ("1", "61")
    assert isinstance(swallowed, Rejected)
    assert swallowed.line == 3
    assert "lines 3 to 60, which look like rows: close the quote opened on line 3" in swallowed.reason


def test_a_damaged_row_of_several_lines_says_which_lines_it_takes(read_text):
    damaged, wide, good = read_text('id,question\n1,"a\nb "c" d"\n2,"e\nf",g\n3,h\n')
    assert isinstance(damaged, Rejected)
    assert isinstance(wide, Rejected)
    assert "it takes lines 2 to 3: close the quote opened on line 2" in damaged.reason
    assert "3 fields where the header has 2; it takes lines 4 to 5" in wide.reason
    assert good.question == "h"


def test_cells_of_many_lines_are_read_as_the_csv_module_reads_them(read_text):
    texts = ["a\n" * 30, '"quoted"\n, and more,\n' * 5, "x,y\n" * 8, "one, two\n\nthree"]
    rows = read_text(write([("question", "caption"), *((text, "c") for text in texts)]))
    assert [row.question for row in rows] == texts


@pytest.mark.parametrize("first", ["sep=;\n", '"sep=;"\r\n', "\ufeffSEP=;\r\n"])
def test_a_first_line_of_excel_names_the_delimiter(read_text, first):
    for options in ({}, {"delimiter": ";"}):
        one, bad, two = read_text(f"{first}id;question\n1;a, b\n2\n3;c\n", **options)
        assert (one.question, one.line, two.question, two.line) == ("a, b", 3, "c", 5)
        assert (type(bad), bad.line) == (Rejected, 4)
    (row,) = read_text("sep=\t\nid\tquestion\n1\ta, b\n")
    assert row.question == "a, b"


def test_a_first_line_that_names_another_delimiter_than_the_spec_is_told(read_text):
    with pytest.raises(UserError, match=r"names the delimiter ';' in its first line, and ',' is given"):
        read_text("sep=;\nid;question\n1;a\n", delimiter=",")


def test_a_published_file_saved_by_excel_is_read(read, published):
    path = published / "figstep" / "safebench.csv"
    plain = read("figstep", path)
    rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8-sig"))))
    path.write_text("sep=;\n" + write(rows, delimiter=";"))
    assert [(row.id, row.question) for row in read("figstep", path)] == [
        (row.id, row.question) for row in plain
    ]


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('1, "b, c"', ("1", "b, c")),
        ('"1",  "b ""c"" d"', ("1", 'b "c" d')),
        (' "1", "b,\nc"', ("1", "b,\nc")),
        ('1,"b, ""c"""', ("1", 'b, "c"')),
        # As RFC 4180 reads it, where no other reading makes a row.
        ('1, "b" and c', ("1", ' "b" and c')),
        ('1, "b', ("1", ' "b')),
        ("1, b", ("1", " b")),
    ],
)
def test_a_quote_after_spaces_opens_a_cell_where_that_makes_a_row(read_text, line, cells):
    row, after = read_text(f"id, question\n{line}\n2,d\n")
    assert (row.id, row.question) == cells
    assert (after.question, after.line) == ("d", 3 + line.count("\n"))


def test_names_in_quotes_after_spaces_are_names(read_text):
    (row,) = read_text('"id", "question"\n1, "b"\n')
    assert row.question == "b"


@pytest.mark.parametrize("place", ["last", "first"])
def test_a_line_too_long_to_read_is_rejected_and_not_cut(read_text, place):
    cells = ("1", "x" * (17 * 2**20))
    header, row = ("id,question", f"{cells[0]},{cells[1]}")
    if place == "first":
        header, row = ("question,id", f'"{cells[1]}",{cells[0]}')
    bad, good = read_text(f"{header}\n{row}\n2,2\n")
    assert isinstance(bad, Rejected)
    assert "longer than 16,777,216 bytes" in bad.reason
    assert "shorten it" in bad.reason
    assert isinstance(good, Sample)
    assert good.line == 3
