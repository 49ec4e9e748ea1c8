"""Every published format with damaged bytes: rows set aside or a clear stop, and nothing else."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

PUBLISHED = Path(__file__).parent / "published"

# What ends and begins things in JSON and in CSV.
SYNTAX = [
    b'"',
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r",
    b"\\",
    b"null",
    b"-1e999",
    b'\\u0000"',
    b"../",
]


def cut(data: bytes) -> bytes:
    """Cut a document in two, and a file of lines in the middle of its last one, where damage shows."""
    if data.startswith((b"[\n", b"{\n")):
        return data[: len(data) // 2]
    whole = data.rstrip()
    return whole[: -len(whole.splitlines()[-1]) * 3 // 4]


# What happens to bytes, whatever they mean. The first row of every fixture asks about a wug.
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "cut off": cut,
    "empty": lambda _: b"",
    "blank": lambda _: b" \n\r\n\t\n",
    "with a NUL": lambda data: data.replace(b"wug", b"w\0g", 1),
    "with a byte that is no UTF-8": lambda data: data.replace(b"wug", b"w\xfcg", 1),
    "UTF-16": lambda data: data.decode().encode("utf-16"),
    "UTF-16 without its mark": lambda data: data.decode().encode("utf-16-le"),
    "compressed and cut off": lambda data: gzip.compress(data)[:-9],
    "a page that says it is not there": lambda _: b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
    "a pointer to a large file": lambda _: b"version https://git-lfs.github.com/spec/v1\nsize 12345\n",
}


def test_the_undamaged_file_has_nothing_to_reject(case, published, look):
    path = published / case.file
    assert look(path) == []
    # A server may have sent it so, under its plain name.
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert look(path) == []


@pytest.mark.parametrize("name", BYTES)
def test_damaged_bytes_quarantine_rows_or_stop_the_reading(case, published, look, name):
    path = published / case.file
    before = path.read_bytes()
    path.write_bytes(BYTES[name](before))
    assert path.read_bytes() != before
    assert look(path) != []


def test_an_empty_file_and_a_folder_stop_the_reading(case, published, look):
    path = published / case.file
    path.unlink()
    assert look(path) is None
    path.mkdir()
    assert look(path) is None


CHANGES = st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=3) | st.sampled_from(SYNTAX))


@given(change=CHANGES)
@settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_other_bytes_anywhere_raise_anything_else(case, published, look, change):
    place, length, put = change
    original = (PUBLISHED / case.file).read_bytes()
    start = int(place * len(original))
    path = published / case.file
    path.write_bytes(original[:start] + put + original[start + length :])
    look(path)
