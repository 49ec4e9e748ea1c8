"""Column mapping of users' own files: the same for every file type."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

ROWS = [
    {"n": "1", "prompt": "what?", "img": "a.png", "gold": "red", "bad": False, "seen": "a red wug"},
    {"n": "2", "prompt": "why?", "img": None, "gold": None, "bad": True, "seen": None},
]
COLUMNS = {
    "id": "n",
    "question": "prompt",
    "image": "img",
    "reference": "gold",
    "harmful": "bad",
    "context": "seen",
}


def write_jsonl(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_csv(path, rows):
    cells = [["" if value is None else str(value) for value in row.values()] for row in rows]
    path.write_text("".join(",".join(line) + "\n" for line in [list(rows[0]), *cells]))


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)


def open_rows(path):
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1):
        yield from batch.to_pylist()


WRITERS = {"jsonl": write_jsonl, "csv": write_csv, "parquet": write_parquet}


@pytest.fixture(params=sorted(WRITERS))
def read_own(request, read, tmp_path):
    def read_rows(rows, **options):
        path = tmp_path / f"mine.{request.param}"
        WRITERS[request.param](path, rows)
        return read(request.param, path, open_rows=open_rows, **options)

    return read_rows


def test_columns_of_any_name_are_mapped_in_every_kind_of_file(read_own):
    assert read_own(ROWS, columns=COLUMNS) == [
        Sample(
            id="1",
            dataset="d",
            question="what?",
            harmful=False,
            image="a.png",
            reference="red",
            context="a red wug",
        ),
        Sample(id="2", dataset="d", question="why?", harmful=True),
    ]


def test_a_row_without_an_id_is_named_by_its_content(read_own):
    first, second = read_own([{"question": "a"}, {"question": "b"}], harmful=False)
    assert first.id != second.id
    assert not first.harmful


def test_twins_are_kept_and_stay_on_one_side(read, tmp_path):
    rows = [
        {"question": "q1", "harmful": True, "twin": "one"},
        {"question": "q2", "harmful": False, "twin": "one", "group": "own"},
        {"question": "q3", "twin": " "},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    found = [(row.twin, row.group) for row in read("jsonl", path)]
    assert found == [("one", "one"), ("one", "own"), (None, None)]


def test_a_group_of_ones_own_is_kept(read_own):
    assert [row.group for row in read_own([{"question": "a", "group": "g"}])] == ["g"]


@pytest.mark.parametrize("name", ["csv", "parquet"])
@pytest.mark.parametrize("columns", [None, {"question": "prompt", "image": "picture"}])
def test_a_column_that_the_file_lacks_is_refused_with_those_it_has(read, tmp_path, name, columns):
    path = tmp_path / f"mine.{name}"
    WRITERS[name](path, ROWS)
    with pytest.raises(
        UserError, match=r"no row of d has '(question|picture)'.* Its fields are n, prompt, img"
    ):
        read(name, path, open_rows=open_rows, columns=columns)


@pytest.mark.parametrize(
    ("cell", "harmful"), [("true", True), ("Yes", True), ("0", False), ("no", False), ("", True)]
)
def test_a_boolean_cell_of_csv_has_the_usual_spellings(read, tmp_path, cell, harmful):
    path = tmp_path / "mine.csv"
    path.write_text(f"question,harmful\nq,{cell}\n")
    assert [row.harmful for row in read("csv", path)] == [harmful]


def test_an_empty_cell_of_csv_is_absent_but_an_empty_question_is_left_to_the_screening(read, tmp_path):
    path = tmp_path / "mine.csv"
    path.write_text("id,question,image\n,q, \n1,,\n")
    first, second = read("csv", path)
    assert (first.image, len(first.id)) == (None, 10)
    assert second.question == ""


@pytest.mark.parametrize("cell", ["perhaps", "2"])
def test_another_cell_of_csv_is_rejected(read, tmp_path, cell):
    path = tmp_path / "mine.csv"
    path.write_text(f"question,harmful\nq,{cell}\n")
    (row,) = read("csv", path)
    assert isinstance(row, Rejected)
    assert (row.line, "neither true nor false" in row.reason) == (2, True)


def test_a_cell_of_parquet_that_is_no_text_is_rejected_with_its_row(read, tmp_path):
    path = tmp_path / "mine.parquet"
    write_parquet(path, [{"id": 1, "question": b"\x89PNG" * 1000}, {"id": 2, "question": None}])
    first, second = read("parquet", path, open_rows=open_rows)
    assert (first.line, first.id, first.reason) == (
        1,
        "1",
        "field 'question' is a value of type bytes, not text",
    )
    assert first.raw == "{'id': 1, 'question': <a value of type bytes>}"
    assert (second.line, second.reason) == (2, "no field 'question'")


@pytest.mark.parametrize("keep", [0, 4, 100, -8, -20])
def test_a_damaged_parquet_file_is_refused(read, tmp_path, keep):
    path = tmp_path / "mine.parquet"
    write_parquet(path, ROWS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"mine\.parquet cannot be read as Parquet"):
        read("parquet", path, open_rows=open_rows)


def test_an_empty_table_and_a_missing_file_are_refused(read, tmp_path):
    path = tmp_path / "mine.parquet"
    pq.write_table(pa.table({"question": pa.array([], pa.string())}), path)
    with pytest.raises(UserError, match="holds no rows"):
        read("parquet", path, open_rows=open_rows)
    with pytest.raises(UserError, match="does not exist"):
        read("parquet", tmp_path / "missing.parquet", open_rows=open_rows)


@pytest.mark.parametrize("field", ["caption", "image", "reference", "category", "id"])
def test_a_mapped_column_that_is_there_and_empty_is_no_mistake(read_own, field):
    rows = [{"prompt": text, "seen": None} for text in "ab"]
    found = read_own(rows, columns={"question": "prompt", field: "seen"})
    assert [row.question for row in found] == ["a", "b"]
    assert {getattr(row, field) for row in found} == {None} or field == "id"


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"columns": {"question": "prompt", "harmful": "seen"}}, "columns.harmful"),
        (
            {"columns": {"question": "prompt"}, "harmful": {"column": "seen", "true": ["bad"]}},
            "harmful.column",
        ),
    ],
)
def test_an_empty_column_that_says_what_is_harmful_is_told_as_empty(read_own, options, name):
    with pytest.raises(UserError) as told:
        read_own([{"prompt": text, "seen": None} for text in "ab"], **options)
    assert f"the column 'seen' of d, which {name} names, is empty in all rows; fill it" in str(told.value)
