"""Data sets in a spec: mappings of `harmful`, options of formats, and paths that start at home."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cmrm.errors import UserError
from flows.spec.spec import read_spec

SPEC = (
    "model: {{id: organism}}\n"
    "datasets:\n  mine: {{format: jsonl, path: a.jsonl, {0}}}\n"
    "anchors: {{from: {{mine: 0.5}}}}\n"
)


@pytest.fixture
def read(tmp_path):
    def read_mine(fields: str):
        path = tmp_path / "spec.yaml"
        path.write_text(SPEC.format(fields))
        return read_spec(path).datasets["mine"]

    return read_mine


FIELDS = ("path", "images", "pair_with", "answers", "captions")


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    ("url", "scheme", "fix"),
    [
        ("gs://bucket/file", "gs", "download it, and give its path"),
        ("abfs://container/file", "abfs", "download it, and give its path"),
        ("AZ://container/file", "AZ", "download it, and give its path"),
        ("simplecache::s3://bucket/file", "simplecache::s3", "download it, and give its path"),
        ("file:///data/a.jsonl", "file", "write the path alone"),
        ("hf://datasets/owner/name", "hf", "write format: huggingface, and its id owner/name as path"),
    ],
)
def test_a_url_of_another_scheme_is_refused_with_what_to_write_instead(tmp_path, field, url, scheme, fix):
    mine = {"format": "jsonl", "path": "a.jsonl", "images": "images", field: url}
    line = refuse_spec(tmp_path, mine=mine)
    assert f"datasets.mine.{field} (it is {url!r}): {scheme}:// is not supported" in line
    assert "https:// and s3:// are" in line
    assert fix in line


@pytest.mark.parametrize("given", ["", " ", "\u200b"])
@pytest.mark.parametrize("field", FIELDS)
def test_an_empty_path_is_not_the_current_folder(tmp_path, field, given):
    line = refuse_spec(
        tmp_path, mine={"format": "jsonl", "path": "a.jsonl", "images": "images", field: given}
    )
    assert f"datasets.mine.{field} (it is " in line
    assert "give a path, or . for the folder of the spec" in line


@pytest.mark.parametrize("given", ["", " "])
@pytest.mark.parametrize(
    ("fields", "named", "fix"),
    [
        ({"store": None}, "store", "give a path"),
        ({"model": {"id": None}}, "model.id", "give an id on the hub"),
        ({"model": {"id": "organism", "adapter": {"id": None}}}, "model.adapter.id", "give an id on the hub"),
    ],
)
def test_an_empty_store_or_id_is_refused_in_one_line(tmp_path, given, fields, named, fix):
    text = json.dumps(fields).replace("null", json.dumps(given))
    line = refuse_spec(tmp_path, mine={"format": "jsonl", "path": "a.jsonl"}, **json.loads(text))
    assert f"{named} (it is {given!r}): {fix}" in line


@pytest.mark.parametrize("field", ["path", "store", "url"])
@pytest.mark.parametrize("url", ["http://127.0.0.1:geheimnis/x", "https://host:80geheimnis"])
def test_a_port_that_is_no_number_is_named_as_one_and_not_shown(tmp_path, field, url):
    mine = {"format": "jsonl", "path": url if field == "path" else "a.jsonl"}
    judge = {"kind": "endpoint", "model": "m", "url": url if field == "url" else "https://host/v1"}
    fields = {"store": url if field == "store" else "store", "judges": [judge]}
    line = refuse_spec(tmp_path, mine=mine, **fields)
    assert "has a port that is not a number" in line
    assert "correct or remove it" in line
    assert "geheimnis" not in line


def test_the_folder_of_the_spec_may_be_given(read, tmp_path):
    assert read("images: .").images == tmp_path


def refuse_spec(folder, *, mine, **fields):
    spec = {"model": {"id": "organism"}, "datasets": {"mine": mine}, "anchors": {"from": {"mine": 0.5}}}
    (folder / "spec.yaml").write_text(json.dumps({**spec, **fields}))
    with pytest.raises(UserError) as caught:
        read_spec(folder / "spec.yaml")
    (line,) = str(caught.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ("false", False),
        (
            '{column: label, true: [unsafe, "1", 2]}',
            {"column": "label", "true": ["unsafe", "1", 2]},
        ),
        (
            "{column: a.b, true: [true], false: [no]}",
            {"column": "a.b", "true": [True], "false": [False]},
        ),
        ('{column: label, "true": [x]}', {"column": "label", "true": ["x"]}),
    ],
)
def test_harmful_is_one_word_or_a_mapping_whose_keys_yaml_reads_as_truth_values(read, written, given):
    assert read(f"harmful: {written}").options() == {"harmful": given}


def test_options_of_formats_reach_the_reader(read):
    fields = (
        'match: basename, constants: {category: a}, columns: {question: a.0.b}, delimiter: ";", rows: data'
    )
    assert read(fields).options() == {
        "match": "basename",
        "constants": {"category": "a"},
        "columns": {"question": "a.0.b"},
        "delimiter": ";",
        "rows": "data",
    }


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("harmful: sometimes", "datasets.mine.harmful (it is 'sometimes'): "),
        ("harmful: [label]", "datasets.mine.harmful (it is ['label']): "),
        ("harmful: {column: label}", "datasets.mine.harmful.true: this field is missing. Add it."),
        ("harmful: {colum: label, true: [a], column: b}", "Did you mean 'column'?"),
        ("harmful: {column: label, true: [[a]]}", "give the column's values as texts"),
        ("harmful: {column: label, true: []}", "datasets.mine.harmful.true"),
        ("match: fuzzy", "datasets.mine.match (it is 'fuzzy'): "),
        ("constants: {category: [a]}", "datasets.mine.constants.category"),
    ],
)
def test_a_mistake_in_an_option_costs_one_line(read, fields, message):
    with pytest.raises(UserError) as caught:
        read(fields)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / "model").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    (tmp_path / "spec.yaml").write_text(
        "model: {id: ~/model}\nstore: ~/store\njudges: [{kind: llama-guard, model: ~/model}]\n"
        "datasets:\n"
        "  mine: {format: jsonl, path: ~/a.jsonl, images: ~/im, pair_with: ~/b.json, clip: {id: ~/model}}\n"
        "  bench: {format: llava-bench-coco, path: ~/q.jsonl, answers: ~/r.jsonl, captions: ~/c.jsonl}\n"
        "anchors: {from: {mine: 0.5}}\n"
    )
    spec = read_spec(tmp_path / "spec.yaml")
    mine, bench = spec.datasets["mine"], spec.datasets["bench"]
    assert (mine.path, mine.images, mine.pair_with) == (home / "a.jsonl", home / "im", home / "b.json")
    assert (bench.path, bench.answers, bench.captions) == (
        home / "q.jsonl",
        home / "r.jsonl",
        home / "c.jsonl",
    )
    local = str(home / "model")
    assert mine.clip is not None
    assert spec.model is not None
    assert (mine.clip.id, spec.model.id, spec.judges[0].options["model"]) == (local, local, local)
    assert Path(str(spec.store)) == home / "store"


def test_a_home_folder_of_nobody_is_named(read):
    with pytest.raises(UserError, match=r"datasets\.mine\.images: ~nobody-here/im starts at a home folder"):
        read("images: ~nobody-here/im")
