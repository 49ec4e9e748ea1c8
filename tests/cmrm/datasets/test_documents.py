"""One JSON document: its entries in a stream, each with its line, whatever the size of a chunk."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmrm.datasets import documents
from cmrm.datasets.documents import KEY, read_entries
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected


def read(path, *containers):
    return list(read_entries(path, dataset="d", containers=containers or ("list", "object")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One for all examples: to make one takes longer than to read what is in it."""
    return tmp_path_factory.mktemp("d")


ENTRIES = st.lists(st.dictionaries(st.text(max_size=5), st.floats() | st.text() | st.integers(), max_size=3))


@given(entries=ENTRIES, chunk=st.integers(1, 50), indent=st.sampled_from([None, 0, 2]))
def test_a_list_is_read_as_the_json_module_reads_it(folder, entries, chunk, indent):
    path = folder / "d.json"
    path.write_text(json.dumps(entries, indent=indent))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documents, "CHUNK_CHARACTERS", chunk)
        records = read(path)
    assert repr([record.fields for record in records]) == repr(entries)


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 1000])
def test_every_entry_has_its_line_and_its_key_or_number(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(documents, "CHUNK_CHARACTERS", chunk)
    path = tmp_path / "d.json"
    path.write_bytes(b'\xef\xbb\xbf\r\n{\r\n "a": {"x":\r\n 1}, "b"\n: 12345\r\n,\n "c": {}\n}\n\n')
    first, second, third = read(path)
    assert (first.line, first.fields, first.place) == (3, {"x": 1, KEY: "a"}, "entry 'a'")
    assert second == Rejected(
        dataset="d",
        line=4,
        id=None,
        reason="entry 'b' is a number where a JSON object was expected",
        raw="12345",
    )
    assert (third.line, third.fields) == (7, {KEY: "c"})


def test_a_key_that_recurs_is_seen_twice(tmp_path):
    path = tmp_path / "d.json"
    path.write_text('{"a": {"n": 1}, "a": {"n": 2}}')
    assert [record.fields["n"] for record in read(path)] == [1, 2]


@pytest.mark.parametrize("content", ["[]", "{}", " [ ] ", "\n{\n}\n"])
def test_an_empty_document_has_no_entries(tmp_path, content):
    path = tmp_path / "d.json"
    path.write_text(content)
    assert read(path) == []


@pytest.mark.parametrize("chunk", [1, 1000])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('[{"a": 1}', "',' or ']' was expected"),
        ('[{"a": 1} {"b": 2}]', "',' or ']' was expected"),
        ('[{"a": 1},]', "Expecting value"),
        ('[{"a": 1}]\n]', "something follows"),
        ('{"a": {}', "',' or '}' was expected"),
        ('{"a" {}}', "':' was expected"),
        ("{3: {}}", "a key in quotation marks"),
        ('{"a": }', "Expecting value"),
        ('[{"a": "x', "Unterminated string"),
        ('[{"a": "x\0"}]', "Invalid control character"),
        ('[{"a": ' + "9" * 5000 + "}]", "integer"),
        ("[" * 20_000, "recursion"),
    ],
)
def test_a_document_that_breaks_is_refused_with_the_line(tmp_path, monkeypatch, content, reason, chunk):
    monkeypatch.setattr(documents, "CHUNK_CHARACTERS", chunk if len(content) < 100 else 1000)
    path = tmp_path / "d.json"
    path.write_text("\n\n" + content)
    with pytest.raises(UserError, match=r"d\.json is damaged or truncated .* line [34]") as caught:
        read(path)
    assert reason in str(caught.value)


def test_an_entry_too_long_for_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "CHUNK_CHARACTERS", 10)
    monkeypatch.setattr(documents, "MAX_ENTRY_CHARACTERS", 100)
    path = tmp_path / "d.json"
    path.write_text('[{"a": "' + "x" * 1000 + '"}]')
    with pytest.raises(UserError, match="truncated"):
        read(path)


@pytest.mark.parametrize(
    ("content", "containers", "message"),
    [
        ("", ("list",), "is empty"),
        ("{}", ("list",), "is not one JSON list"),
        ("[]", ("object",), "is not one JSON object"),
        ("3", ("list", "object"), "is not one JSON list or one JSON object"),
        ("<html>", ("list",), "is not one JSON list"),
    ],
)
def test_another_container_is_refused(tmp_path, content, containers, message):
    path = tmp_path / "d.json"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        read(path, *containers)
