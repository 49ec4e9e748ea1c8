"""Compressed files: read as what is in them, and refused in one line where they are damaged."""

from __future__ import annotations

import gzip
import json
import zipfile

import pyarrow as pa
import pytest

from cmrm.errors import UserError

LINES = b"".join(
    json.dumps({"id": str(n), "question": f"What is {n}?"}).encode() + b"\n" for n in range(3000)
)
DOCUMENT = json.dumps({"data": [json.loads(line) for line in LINES.splitlines()]}).encode()
TABLE = b"id\tquestion\n" + b"".join(b"%d\tWhat is %d?\n" % (n, n) for n in range(3000))


def write_gzip(path, content):
    path.write_bytes(gzip.compress(content))


def write_zstd(path, content):
    with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
        file.write(content)


def write_zip(path, content):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/rows", content)
        archive.writestr("__MACOSX/folder/._rows", b"of no interest")


CONTENTS = {"jsonl": ("jsonl", LINES), "json": ("json", DOCUMENT), "csv": ("tsv", TABLE)}
WRITERS = {"gz": write_gzip, "zst": write_zstd, "zip": write_zip}


@pytest.fixture(params=sorted(WRITERS))
def kind(request):
    return request.param


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_a_compressed_file_is_read_like_a_plain_one(read, tmp_path, kind, name):
    suffix, content = CONTENTS[name]
    path = tmp_path / f"mine.{suffix}.{kind}"
    WRITERS[kind](path, content)
    rows = read(name, path)
    assert [(row.id, row.question) for row in rows] == [(str(n), f"What is {n}?") for n in range(3000)]


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_a_compressed_file_that_is_cut_or_is_none_is_refused(read, tmp_path, kind, name):
    suffix, content = CONTENTS[name]
    path = tmp_path / f"mine.{suffix}.{kind}"
    WRITERS[kind](path, content)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], content, b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=rf"\.{kind} (cannot be|is damaged|holds no|is empty)") as caught:
            read(name, path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", sorted(CONTENTS))
@pytest.mark.parametrize("called", ["mine", "mine.{suffix}", "mine.{suffix}.gz"])
def test_a_compressed_file_is_known_by_its_bytes_whatever_its_name(read, tmp_path, kind, name, called):
    suffix, content = CONTENTS[name]
    path = tmp_path / called.format(suffix=suffix)
    WRITERS[kind](path, content)
    options = {"delimiter": "\t"} if name == "csv" else {}
    assert [row.id for row in read(name, path, **options)] == [str(n) for n in range(3000)]


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_a_file_that_is_compressed_twice_is_refused(read, tmp_path, kind, name):
    path = tmp_path / "mine"
    WRITERS[kind](path, gzip.compress(CONTENTS[name][1]))
    with pytest.raises(UserError, match="is compressed twice; unpack it once"):
        read(name, path)


@pytest.mark.parametrize("count", [0, 2])
def test_an_archive_of_another_number_of_files_is_refused(read, tmp_path, count):
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for place in range(count):
            archive.writestr(f"{place}.jsonl", LINES)
    with pytest.raises(UserError, match=f"holds {count} files, and one is read"):
        read("jsonl", path)
