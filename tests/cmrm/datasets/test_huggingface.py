"""Data sets as the Hugging Face library loads them, from local folders and with no network."""

from __future__ import annotations

import builtins
import io
import json
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cmrm.datasets import screen
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

datasets = pytest.importorskip("datasets")

ROWS = [
    {"id": "a", "question": "What is a wug?", "category": "words"},
    {"id": "b", "question": "What is a blick?", "category": None},
]


def png(color: str, side: int = 4) -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (side, side), color).save(sink, format="PNG")
    return sink.getvalue()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "data"
    place.mkdir()
    return place


def write_lines(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_pictures(path, pictures):
    """Write a Parquet file with a column of images, as the hub keeps them."""
    rows = {"question": [f"question {n}" for n in range(len(pictures))], "image": pictures}
    features = datasets.Features({"question": datasets.Value("string"), "image": datasets.Image()})
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(path))


def test_a_folder_of_lines_is_streamed(read, folder):
    write_lines(folder / "train.jsonl", ROWS)
    assert read("huggingface", folder) == [
        Sample(id="a", dataset="d", question="What is a wug?", harmful=True, category="words"),
        Sample(id="b", dataset="d", question="What is a blick?", harmful=True),
    ]


def test_columns_splits_and_harm_are_chosen(read, folder):
    write_lines(folder / "train.jsonl", [{"prompt": "What?", "n": 1}])
    write_lines(folder / "test.jsonl", [{"prompt": "Why?", "n": 7}])
    (row,) = read(
        "huggingface", folder, split="test", columns={"question": "prompt", "id": "n"}, harmful=False
    )
    assert (row.id, row.question, row.harmful, row.line) == ("7", "Why?", False, 1)


def test_a_column_of_images_is_kept_as_png_by_content(read, folder, tmp_path):
    pictures = [{"bytes": png(color), "path": None} for color in ("red", "blue", "red")]
    write_pictures(folder / "train.parquet", pictures)
    images = tmp_path / "kept" / "images"
    rows = read("huggingface", folder, images=images)
    assert rows[0].image == rows[2].image != rows[1].image
    assert sorted(path.name for path in images.iterdir()) == sorted({row.image for row in rows})
    with Image.open(images / rows[0].image) as image:
        assert (image.format, image.getpixel((0, 0))) == ("PNG", (255, 0, 0))
    assert list(screen(rows, images=images)) == rows


def test_an_image_that_is_kept_is_not_written_again(read, folder, tmp_path):
    write_pictures(folder / "train.parquet", [{"bytes": png("red"), "path": None}])
    (row,) = read("huggingface", folder, images=tmp_path)
    before = (tmp_path / row.image).stat().st_mtime_ns
    assert read("huggingface", folder, images=tmp_path) == [row]
    assert (tmp_path / row.image).stat().st_mtime_ns == before


def test_images_without_a_folder_to_keep_them_in_stop(read, folder):
    write_pictures(folder / "train.parquet", [{"bytes": png("red"), "path": None}])
    with pytest.raises(UserError, match="give its `images`"):
        read("huggingface", folder)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(png("red", 64)[:-40], "cannot be read"), (b"no image", "cannot be read"), (b"", "cannot be read")],
)
def test_a_damaged_image_costs_its_row_alone(read, folder, tmp_path, content, reason):
    pictures = [{"bytes": content, "path": None}, {"bytes": png("red"), "path": None}]
    write_pictures(folder / "train.parquet", pictures)
    first, second = read("huggingface", folder, images=tmp_path / "images")
    assert isinstance(first, Rejected)
    assert (first.line, reason in first.reason) == (1, True)
    assert isinstance(second, Sample)
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_an_image_that_is_not_there_is_none(read, folder, tmp_path):
    write_pictures(folder / "train.parquet", [None, {"bytes": png("red"), "path": None}])
    assert [row.image is None for row in read("huggingface", folder, images=tmp_path)] == [True, False]


def test_a_folder_of_images_with_metadata_is_read(read, folder, tmp_path):
    (folder / "one.png").write_bytes(png("red"))
    (folder / "two.png").write_bytes(png("blue")[:20])
    write_lines(
        folder / "metadata.jsonl",
        [{"file_name": name, "question": name} for name in ("one.png", "two.png")],
    )
    rows = read("huggingface", folder, images=tmp_path / "images")
    assert [type(row) for row in rows] == [Sample, Rejected]
    assert (rows[0].question, len(rows[0].image)) == ("one.png", 36)


def test_a_folder_with_an_archive_of_images_is_read(read, folder, tmp_path):
    with zipfile.ZipFile(folder / "train.zip", "w") as archive:
        for name in ("one.png", "two.png"):
            archive.writestr(name, png("red"))
        archive.writestr("metadata.csv", "file_name,question\none.png,q\ntwo.png,r\n")
    first, second = read("huggingface", folder, images=tmp_path / "images")
    assert first.image == second.image
    assert (tmp_path / "images" / first.image).is_file()


@pytest.mark.parametrize("place", ["{}/secret.png", "{}/data/../secret.png", "https://localhost/secret.png"])
def test_an_image_outside_the_data_set_is_rejected(read, folder, tmp_path, place):
    (tmp_path / "secret.png").write_bytes(png("red"))
    rows = [{"question": "q", "image": {"bytes": None, "path": place.format(tmp_path)}}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    (row,) = read("huggingface", folder, images=tmp_path / "images")
    assert "lies outside the data set" in row.reason


def test_a_column_of_texts_names_files(read, folder):
    write_lines(folder / "train.jsonl", [{"question": "q", "image": "sub/a.png"}])
    assert [row.image for row in read("huggingface", folder)] == ["sub/a.png"]


def test_a_cell_that_is_no_image_is_rejected(read, folder, tmp_path):
    write_lines(folder / "train.jsonl", [{"question": "q", "image": [[1, 2], [3]]}])
    (row,) = read("huggingface", folder, images=tmp_path)
    assert row.reason == "field 'image' is a list of 2, not one text"


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ({"train.jsonl": "{"}, {}, "cannot be read"),
        ({"train.jsonl": b"\xff\xfe\x00"}, {}, "cannot be read"),
        ({"train.parquet": b"PAR1"}, {}, "cannot be read"),
        ({"train.jsonl": '{"question": "a"}'}, {"split": "test"}, "test"),
        ({"train.jsonl": '{"question": "a"}'}, {"config": "other"}, "other"),
        ({"train.jsonl": '{"prompt": "a"}'}, {}, "has 'question'; .* Its fields are prompt"),
        ({"train.jsonl": ""}, {}, "cannot be read"),
        ({"load.py": "raise SystemExit"}, {}, "cannot be read"),
        ({}, {}, "cannot be read"),
    ],
)
def test_what_cannot_be_loaded_stops_clearly(read, folder, files, options, message):
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=message):
        read("huggingface", folder, **options)


def test_a_row_of_another_type_is_rejected(read, folder):
    write_lines(folder / "train.jsonl", [{"question": "a"}, {"question": {"b": 1}}])
    first, second = read("huggingface", folder)
    assert isinstance(first, Sample)
    assert (second.line, second.reason) == (2, "field 'question' is an object, not text")


def test_a_hub_id_without_the_hub_stops_clearly(read, tmp_path):
    with pytest.raises(UserError, match="nobody/nothing cannot be read"):
        read("huggingface", Path("nobody/nothing"))
    with pytest.raises(UserError, match="neither a folder nor the id"):
        read("huggingface", tmp_path / "missing")


def test_without_the_library_it_is_said_how_to_get_it(read, folder, monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **options):
        if name == "datasets":
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"pip install 'cmrm\[datasets\]'"):
        read("huggingface", folder)
