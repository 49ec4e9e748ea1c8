"""Images that rows hold themselves: as bytes, Hugging Face's structs, base64 and `data:` URLs."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cmrm.datasets import screen
from cmrm.errors import UserError
from cmrm.prompts.images import open_image
from cmrm.prompts.sample import Rejected, Sample
from storage.tables.parquet import iterate_rows

COLORS = ("red", "blue", "green")


def make_file(color: str, kind: str = "PNG") -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(sink, format=kind)
    return sink.getvalue()


def encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


# How a cell may hold an image, by the format's name: the cell for a file's bytes.
CELLS = {
    "parquet struct": lambda content: {"bytes": content, "path": "elsewhere/0.png"},
    "parquet bytes": lambda content: content,
    "parquet base64": encode,
    "jsonl base64": encode,
    "jsonl base64 without padding": lambda content: encode(content).rstrip("="),
    "jsonl base64 in lines": lambda content: "\n".join(
        encode(content)[start : start + 76] for start in range(0, len(encode(content)), 76)
    ),
    "jsonl data URL": lambda content: f"data:image/png;base64,{encode(content)}",
    "csv base64": encode,
    "csv data URL": lambda content: f"data:image/jpeg;charset=utf-8;base64,{encode(content)}",
}


def write_rows(folder: Path, name: str, cells: list[Any]) -> Path:
    """Write rows with an image each in the format that the first word of the name says."""
    kind = name.partition(" ")[0]
    path = folder / f"rows.{kind}"
    questions = [f"question {number}" for number in range(len(cells))]
    if kind == "parquet":
        pq.write_table(pa.table({"question": questions, "image": cells}), path)
    elif kind == "jsonl":
        rows = [{"question": text, "image": cell} for text, cell in zip(questions, cells, strict=True)]
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("question", "image"), *zip(questions, cells, strict=True)])
    return path


def read_rows(read: Any, path: Path, images: Path | None) -> list[Sample | Rejected]:
    more = {"open_rows": iterate_rows} if path.suffix == ".parquet" or path.is_dir() else {}
    kind = "parquet" if path.is_dir() else path.suffix[1:]
    return list(read(kind, path, images=images, **more))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_file_that_a_cell_holds_is_kept_as_it_is_and_named_by_its_digest(
    read: Any, tmp_path: Path, name: str, kind: str
) -> None:
    files = [make_file(color, kind) for color in (*COLORS, COLORS[0])]
    path = write_rows(tmp_path, name, [CELLS[name](content) for content in files])
    kept = tmp_path / "kept"
    rows = read_rows(read, path, kept)
    names = [row.image for row in rows if isinstance(row, Sample)]
    assert names == [f"{hashlib.sha256(content).hexdigest()[:32]}.{kind.lower()}" for content in files]
    assert {one.name: one.read_bytes() for one in kept.iterdir()} == dict(zip(names, files, strict=True))
    assert list(screen(rows, images=kept)) == rows
    expected = np.asarray(Image.open(io.BytesIO(files[1])).convert("RGB"))
    assert np.array_equal(np.asarray(open_image(kept, str(names[1]))), expected)


def test_a_folder_of_parquet_shards_is_read_in_the_order_of_its_paths(read: Any, tmp_path: Path) -> None:
    for number, color in enumerate(COLORS):
        folder = tmp_path / "set" / "data"
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(folder, "parquet bytes", [make_file(color)]).rename(
            folder / f"train-{number:05}-of-00003.parquet"
        )
    rows = read_rows(read, tmp_path / "set", tmp_path / "kept")
    digests = [hashlib.sha256(make_file(color)).hexdigest()[:32] for color in COLORS]
    assert [row.image for row in rows] == [f"{digest}.png" for digest in digests]
    assert [row.line for row in rows] == [1, 2, 3]


def test_a_folder_without_parquet_files_is_refused(read: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no file that ends in \.parquet"):
        read_rows(read, tmp_path, None)


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        (encode(make_file("red")[:45]), "its image cannot be used: it cannot be read"),
        (f"data:image/png;base64,{encode(b'no image')}", "its image cannot be used: it cannot be read"),
        ("data:image/png,abc", "a data URL that is not base64"),
        ("data:text/html;base64,abcd", "a data URL that holds none"),
        ("data:image/png;base64,????", "no base64"),
        (encode(bytes(range(256)) * 800), "its image cannot be used"),
        ("no name at all, and " * 20_000, "a text of 399,999 characters, neither base64 nor a file's name"),
    ],
)
def test_what_is_no_image_costs_its_row_at_once_with_a_short_reason(
    read: Any, tmp_path: Path, cell: str, reason: str
) -> None:
    path = write_rows(tmp_path, "jsonl", [cell, encode(make_file("red"))])
    started = time.process_time()
    bad, good = read_rows(read, path, tmp_path / "kept")
    assert time.process_time() - started < 5
    assert isinstance(bad, Rejected)
    assert reason in bad.reason
    assert len(bad.reason) < 400
    assert str(tmp_path) not in bad.reason
    assert isinstance(good, Sample)


@pytest.mark.parametrize(
    "name", ["a.png", "folder/b.jpg", "iVBORw0KGgo", "Qk.bmp", "/9j/picture.jpg", "no-suffix"]
)
def test_a_files_name_stays_one_and_nothing_is_written(read: Any, tmp_path: Path, name: str) -> None:
    for cell, kind in ((name, "jsonl"), (name, "csv"), ({"bytes": None, "path": name}, "parquet")):
        (row,) = read_rows(read, write_rows(tmp_path, kind, [cell]), tmp_path / "kept")
        assert row.image == name
    assert not (tmp_path / "kept").exists()


# Base64 by its signs, and no name of an image by its suffix.
AMBIGUOUS = ("Qk" + "x7Zb" * 10 + "y", "Qk0" + "A" * 61, "UklGRh" + "x7Zb" * 12, "SUkqAA" + "x7Zb" * 12)


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_name_that_begins_like_base64_of_an_image_is_a_name(
    read: Any, tmp_path: Path, name: str, kind: str
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    path = write_rows(tmp_path, kind, [name])
    (lost,) = screen(read_rows(read, path, images), images=images)
    assert isinstance(lost, Rejected)
    assert f"image '{name}' is not in {images}" in lost.reason
    (images / name).write_bytes(make_file("red"))
    (found,) = screen(read_rows(read, path, images), images=images)
    assert isinstance(found, Sample)
    assert found.image == name


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_file_of_that_name_comes_before_an_image_in_base64(read: Any, tmp_path: Path, kind: str) -> None:
    sink = io.BytesIO()
    Image.new("RGB", (2, 2)).save(sink, format="BMP")
    name = encode(sink.getvalue()).rstrip("=")
    assert "/" not in name
    images = tmp_path / "images"
    images.mkdir()
    path = write_rows(tmp_path, kind, [name])
    (held,) = read_rows(read, path, images)
    assert held.image == f"{hashlib.sha256(sink.getvalue()).hexdigest()[:32]}.bmp"
    (images / name).write_bytes(make_file("red"))
    (named,) = read_rows(read, path, images)
    assert named.image == name


@pytest.mark.parametrize("lacking", [0, 1, 2])
@pytest.mark.parametrize("column", ["image", "harmful"])
def test_a_shard_without_a_column_that_the_others_have_is_refused_by_its_name(
    read: Any, tmp_path: Path, lacking: int, column: str
) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number in range(3):
        row = {"question": [f"q{number}"], "image": [f"{number}.png"], "harmful": [True], "note": ["x"]}
        if number == lacking:
            del row[column], row["note"]
        pq.write_table(pa.table(row), folder / f"{number}.parquet")
    with pytest.raises(UserError) as told:
        read_rows(read, folder, tmp_path)
    other = 1 if lacking == 0 else 0
    assert f"{folder / f'{lacking}.parquet'} has no column {column!r}, which {other}.parquet has" in str(
        told.value
    )


def test_shards_may_differ_in_columns_that_are_not_read(read: Any, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    pq.write_table(pa.table({"question": ["a"], "note": ["x"]}), folder / "0.parquet")
    pq.write_table(pa.table({"question": ["b"]}), folder / "1.parquet")
    assert [row.line for row in read_rows(read, folder, None)] == [1, 2]


def test_a_struct_whose_path_leaves_the_image_folder_is_rejected(read: Any, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(make_file("red"))
    images = tmp_path / "images"
    images.mkdir()
    path = write_rows(tmp_path, "parquet", [{"bytes": None, "path": "../secret.png"}])
    (row,) = screen(read_rows(read, path, images), images=images)
    assert isinstance(row, Rejected)
    assert "lies outside" in row.reason


def test_a_held_image_without_a_folder_to_keep_it_in_stops(read: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path, "jsonl", [encode(make_file("red"))])
    with pytest.raises(UserError, match="give its `images`"):
        read_rows(read, path, None)


def test_a_long_name_is_cut_in_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        open_image(tmp_path, "a" * 100_000)
    assert len(str(told.value)) < 600
