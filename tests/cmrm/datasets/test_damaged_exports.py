"""Published Parquet exports with damaged rows and files: rows set aside or a clear stop, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cmrm.datasets import read_dataset, screen
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected
from storage.tables.parquet import iterate_rows
from tests.cmrm.datasets.exports import load_rows, write_export

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Export:
    """A format that reads a Parquet export, the fixture of its rows, its question's column, and others it must have."""

    format: str
    rows: str
    question: str
    columns: tuple[str, ...]
    # A row that is kept.
    row: int = 0


EXPORTS = [
    Export(
        format="hades",
        rows="hades/test.jsonl",
        question="instruction",
        columns=("id", "scenario", "step", "keywords"),
        row=1,
    ),
    Export(format="spa-vl", rows="spa_vl/harm.jsonl", question="question", columns=()),
    Export(
        format="mm-safetybench-plus-plus",
        rows="mm_safetybench_plus_plus/test.jsonl",
        question="question",
        columns=("category", "mode", "label"),
    ),
]


@pytest.fixture(params=EXPORTS, ids=lambda export: export.format)
def export(request) -> Export:
    return request.param


@pytest.fixture
def look(export, tmp_path) -> Callable[[Path], list[Rejected] | None]:
    """Read and screen a file: the rows set aside, or None for a stop; whatever else is raised fails the test."""
    kept = tmp_path / "kept"
    kept.mkdir()

    def read_and_screen(path: Path) -> list[Rejected] | None:
        stop = None
        try:
            rows = read_dataset(export.format, path, dataset="d", images=kept, open_rows=iterate_rows)
            screened = list(screen(rows, images=kept))
        except UserError as error:
            stop = str(error)
        if stop is not None:
            assert str(path) in stop
            return None
        rejected = [row for row in screened if isinstance(row, Rejected)]
        assert all(row.line >= 1 and len(row.reason) > 5 and len(row.raw) <= 500 for row in rejected)
        return rejected

    return read_and_screen


# What happens to a row's cell; each makes its column one of another type.
IMAGES: dict[str, Any] = {
    "null": None,
    "no image": {"bytes": b"no image", "path": "0.png"},
    "cut off": {"bytes": b"\x89PNG\r\n\x1a\n\0\0", "path": None},
    "empty": {"bytes": b"", "path": None},
    "a name of no file": {"bytes": None, "path": "missing.png"},
    "a name outside the folder": {"bytes": None, "path": "../secret.png"},
    "neither bytes nor a name": {"bytes": None, "path": None},
}
TYPES: dict[str, Any] = {
    "a number": 7,
    "a list": ["a", "b"],
    "an object": {"a": "b"},
    "true": True,
    "bytes": b"why?",
}


def damage_rows(export: Export, rows: Rows) -> dict[str, Rows]:
    def put(column: str, value: object) -> Rows:
        return [{**row, column: value} if number == export.row else row for number, row in enumerate(rows)]

    def put_everywhere(column: str, value: object) -> Rows:
        return [{**row, column: value} for row in rows]

    damaged = {
        "a blank question": put(export.question, " "),
        "a question that is null": put(export.question, None),
        "a question with a NUL": put(export.question, "wh\0y?"),
        "a row twice": [*rows, rows[export.row]],
    }
    # An Arrow column has one type.
    damaged |= {
        f"questions that are {name}": put_everywhere(export.question, value) for name, value in TYPES.items()
    }
    damaged |= {f"an image that is {name}": put("image", value) for name, value in IMAGES.items()}
    damaged |= {"images that are numbers": put_everywhere("image", 7)}
    damaged |= {"images of several": put_everywhere("image", [rows[0]["image"], rows[0]["image"]])}
    for column in ("image", export.question, *export.columns):
        damaged[f"no column {column}"] = [
            {name: value for name, value in row.items() if name != column} for row in rows
        ]
    for column in [column for column in export.columns if column != "keywords"]:
        damaged |= {
            f"a {column} that is null": put(column, None),
            f"a {column} that is a list": put_everywhere(column, []),
        }
    return damaged


def test_an_undamaged_export_has_nothing_to_reject(export, published, tmp_path, look):
    assert look(write_export(tmp_path / "rows.parquet", load_rows(published / export.rows))) == []


def test_damaged_rows_of_an_export_are_quarantined_or_stop_the_reading(export, published, tmp_path, look):
    damaged = damage_rows(export, load_rows(published / export.rows))
    assert len(damaged) >= 18
    for name, rows in damaged.items():
        rejected = look(write_export(tmp_path / "rows.parquet", rows))
        assert rejected != [], name
        if name.startswith(("an image that is", "a question", "a blank")):
            assert rejected is not None, name
            assert len(rejected) == 1, name


@pytest.mark.parametrize(
    "change",
    [
        lambda _: b"",
        lambda data: data[: len(data) // 2],
        lambda data: data[4:],
        lambda data: data[:-4] + b"XXXX",
        lambda _: b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
        lambda _: b"version https://git-lfs.github.com/spec/v1\nsize 12345\n",
    ],
    ids=[
        "empty",
        "cut off",
        "without its beginning",
        "without its end",
        "a page",
        "a pointer to a large file",
    ],
)
def test_a_file_that_is_no_parquet_stops(export, published, tmp_path, look, change):
    path = write_export(tmp_path / "rows.parquet", load_rows(published / export.rows))
    path.write_bytes(change(path.read_bytes()))
    assert look(path) is None


@pytest.mark.parametrize("name", ["gone.parquet", "folder"])
def test_a_path_without_parquet_stops(tmp_path, look, name):
    (tmp_path / "folder").mkdir()
    assert look(tmp_path / name) is None


def test_an_export_without_rows_stops(export, published, tmp_path, look):
    rows = load_rows(published / export.rows)
    path = write_export(tmp_path / "rows.parquet", rows)
    pq.write_table(pq.read_table(path).slice(0, 0), path)
    assert look(path) is None
