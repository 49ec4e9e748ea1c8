"""Spec files as people and accidents make them: each mistake is one line with its place, soon, whatever the file is."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from cmrm.errors import UserError
from flows.spec.spec import check_spec, read_spec
from flows.spec.yaml_reader import MOST_DEPTH, MOST_VALUES, parse_yaml
from flows.sql.export import write_rows
from flows.sql.query import ask

GOOD = "model: {id: m}\ndatasets:\n  mine: {format: jsonl, path: mine.jsonl}\nanchors: {from: {mine: 0.5}}\n"


def refuse(work: Callable[[], object]) -> str:
    """The one line with which some work is refused."""
    with pytest.raises(UserError) as caught:
        work()
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
    return message


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], Path]:
    def write(text: str) -> Path:
        path = tmp_path / "spec.yaml"
        path.write_bytes(text.encode("utf-8"))
        return path

    return write


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a: 1\nb: 2\na: 3\n", ["line 3", "'a'", "on line 1 and on line 3"]),
        ("datasets:\n  mine: 1\n  mine: 2\n", ["line 3", "'mine'", "on line 2 and on line 3"]),
        ("1: a\n1.0: b\n", ["line 2", "twice"]),
        ("a: 1\nb: 2024-13-01\n", ["line 2", "'2024-13-01'", "timestamp", "quotes"]),
        (f"a: 1\nb: {'7' * 5001}\n", ["line 2", "int"]),
        (f"a: 0x{'f' * 5001}\n", ["line 1", "too large"]),
        (f"a:\n  {'[' * 3000}\n", ["line 2", f"more than {MOST_DEPTH} deep"]),
        ('a: 1\nb: "\\ud800"\n', ["line 2"]),
        ('a: 1\nb: "\\0"\n', ["line 2", "U+0000"]),
        ("a: 1\nb: c\0d\n", ["line 2", "U+0000"]),
        ("a:\n\tb: 1\n", ["line 2", "tabs"]),
        ("a: 1\nb: !unknown c\n", ["line 2", "!unknown"]),
        ("a: 1\nb: !!bool perhaps\n", ["line 2", "'perhaps'", "bool"]),
        ("a: 1\nb: &b [*b]\n", ["line 2", "*b repeats what it stands in"]),
        ("a: 1\n---\nb: 2\n", ["line 2", "second document"]),
        ("? [a]\n: b\n", ["line 1", "key"]),
    ],
)
def test_what_is_no_unambiguous_yaml_is_one_line_with_its_line_number(
    write: Callable[[str], Path], text: str, parts: list[str]
) -> None:
    path = write(text)
    message = refuse(lambda: read_spec(path))
    assert message.startswith(f"{path}: line ")
    for part in parts:
        assert part in message


SPELLINGS = {"1:30": "90", "-12:30:45": "-45045", "1:30.5": "90.5", "010": "8", "-017": "-15", "00": "0"}


@pytest.mark.parametrize("spelled", SPELLINGS)
@pytest.mark.parametrize(
    ("text", "line", "field"),
    [
        ("{good}targets: [mine]\nimages: {{seed: {spelled}}}\n", 6, "images.seed"),
        ("{good}interventions:\n- name: a\n  alpha: [0.5, {spelled}]\n", 7, "interventions.0.alpha.1"),
        ("title: {spelled}\n{good}", 1, "title"),
        ("{good}models:\n- revision: {spelled}\n", 6, "models.0.revision"),
    ],
)
def test_a_number_that_yaml_reads_in_sixties_or_eights_is_refused_with_its_field(
    write: Callable[[str], Path], spelled: str, text: str, line: int, field: str
) -> None:
    message = refuse(lambda: read_spec(write(text.format(good=GOOD, spelled=spelled))))
    assert (
        f"line {line}: {field} is {spelled}, which YAML takes for the number {SPELLINGS[spelled]};" in message
    )
    assert "put it in quotes if it is text" in message


def test_such_a_number_is_refused_as_a_key_and_read_as_text_in_quotes() -> None:
    assert "datasets is 1:30, which" in refuse(lambda: parse_yaml("datasets: {1:30: a}", where="spec.yaml"))
    plain = "a: '1:30'\nb: \"010\"\nc: [0, -0, 0.5, 10, 0x10, 1_000, 08, 0o10, 1:60, 1:a, 12:30:45 UTC]\n"
    read = parse_yaml(plain, where="spec.yaml")
    assert (read["a"], read["b"]) == ("1:30", "010")
    assert read["c"] == [0, 0, 0.5, 10, 16, 1000, "08", "0o10", "1:60", "1:a", "12:30:45 UTC"]


def test_aliases_are_bounded_by_what_they_come_to() -> None:
    names = "abcdefghij"
    bomb = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
        f"{name}: &{name} [{', '.join(['*' + last] * 10)}]\n" for last, name in pairwise(names)
    )
    assert f"more than {MOST_VALUES} values" in refuse(lambda: parse_yaml(bomb, where="spec.yaml"))
    # The same aliases, a few of them, are what YAML means by them.
    few = "".join(bomb.splitlines(keepends=True)[:3])
    assert parse_yaml(few, where="spec.yaml")["c"] == [[[1] * 10] * 10] * 10


def test_aliases_cannot_nest_deeper_than_lists_can() -> None:
    lines = [
        f"a0: &a0 {'[' * 20}{']' * 20}",
        *(f"a{n}: &a{n} {'[' * 10}*a{n - 1}{']' * 10}" for n in range(1, 5)),
    ]
    assert "line 3" in refuse(lambda: parse_yaml("\n".join(lines), where="spec.yaml"))


def test_merge_keys_and_values_are_read_as_pyyaml_reads_them() -> None:
    text = "a: &a {x: 1, y: [1.5, ~, yes, 'text', 2024-02-29]}\nb: {<<: *a, x: 2}\n"
    import yaml

    assert parse_yaml(text, where="spec.yaml") == yaml.safe_load(text)


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a folder", "longer than", "not UTF-8", "a socket"])
def test_a_spec_that_is_no_text_file_is_named_as_what_it_is(tmp_path: Path, kind: str) -> None:
    import socket

    path = tmp_path / "spec.yaml"
    with socket.socket(socket.AF_UNIX) as server:
        match kind:
            case "a FIFO":
                os.mkfifo(path)
            case "a device":
                path = Path("/dev/zero")
            case "a folder":
                path.mkdir()
            case "a socket":
                server.bind(os.path.relpath(path))
            case "not UTF-8":
                path.write_bytes(b"title: a\ntitle: \xff\n")
            case _:
                with path.open("wb") as file:
                    file.truncate(2**33)
        start = time.monotonic()
        message = refuse(lambda: read_spec(path))
    assert kind in message
    assert str(path) in message
    assert time.monotonic() - start < 5


def test_a_spec_may_come_from_standard_input(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(GOOD.encode())))
    assert read_spec(Path("-")).datasets["mine"].path == tmp_path / "mine.jsonl"


@pytest.mark.parametrize(
    ("update", "start"),
    [
        (
            {"interventions": [{"name": "x", "alpha": True}]},
            "interventions.0.alpha (it is True): give a number",
        ),
        (
            {"interventions": [{"name": "x", "blocks": [True]}]},
            "interventions.0.blocks.0 (it is True): give a number",
        ),
        ({"images": {"color": [0, 0, True]}}, "images.color.2 (it is True): give a number"),
        ({"interventions": [{"name": "x", "alpha": "a"}]}, "interventions.0.alpha (it is 'a')"),
        ({"interventions": [{"name": "x", "alpha": ["a"] * 9}]}, "interventions.0.alpha.0 (it is 'a')"),
        ({"interventions": [{"name": "x", "blocks": "a"}]}, "interventions.0.blocks (it is 'a')"),
        ({"interventions": [{"name": "\u200b\u00a0"}]}, "interventions.0.name (it is '\\u200b\\xa0')"),
        ({"interventions": [{"nam": "x"}]}, "interventions.0.nam: no such field. Did you mean 'name'?"),
        ({"conditions": []}, "conditions: nothing is to be answered"),
        (
            {"judges": [{"kind": "refusal", "api_key": "sk-a"}]},
            "judges.0.api_key: a secret is given here",
        ),
        ({"model": {"id": "m", "attn_implementation": "a"}}, "model.attn_implementation (it is 'a')"),
        ({1: 2}, "1: this name is not text"),
    ],
)
def test_one_mistake_is_one_line(update: dict[Any, Any], start: str) -> None:
    spec = {
        "model": {"id": "m"},
        "datasets": {"d": {"format": "jsonl", "path": "d"}},
        "anchors": {"from": {"d": 1}},
    }
    message = refuse(lambda: check_spec({**spec, **update}, where="spec.yaml"))
    assert message.startswith(f"spec.yaml: {start}")
    assert "sk-a" not in message


@pytest.mark.parametrize("name", ["literals", "int", "float", "str"])
def test_a_data_set_may_be_called_as_a_type_is(name: str) -> None:
    spec = {"model": {"id": "m"}, "datasets": {name: {"format": "jsonl"}}, "anchors": {"from": {name: 1}}}
    message = refuse(lambda: check_spec(spec, where="spec.yaml"))
    assert message == f"spec.yaml: datasets.{name}.path: this field is missing. Add it."


def test_conditions_may_be_left_empty_where_states_are_asked_for() -> None:
    spec = {
        "model": {"id": "m"},
        "datasets": {"d": {"format": "jsonl", "path": "d"}},
        "anchors": {"from": {"d": 1}},
    }
    assert (
        check_spec({**spec, "conditions": [], "target_states": ["image"]}, where="spec.yaml").conditions == []
    )


@pytest.mark.parametrize("field", ["path", "images", "answers"])
def test_a_path_that_no_file_can_have_is_named_with_its_field(
    write: Callable[[str], Path], field: str
) -> None:
    path = write(
        GOOD.replace("path: mine.jsonl", f"path: mine.jsonl, {field}: {'a' * 400}").replace(
            "path: mine.jsonl, path", "path"
        )
    )
    message = refuse(lambda: read_spec(path))
    assert f"datasets.mine.{field}" in message
    assert "400 bytes" in message


def test_harmful_without_a_value_is_refused(write: Callable[[str], Path]) -> None:
    path = write(GOOD.replace("mine.jsonl}", "mine.jsonl, harmful: }"))
    assert "datasets.mine.harmful: it is null" in refuse(lambda: read_spec(path))


@pytest.mark.parametrize(
    ("interventions", "part"),
    [
        ("".join(f"  - {{name: i{number}, alpha: 0.5}}\n" for number in range(10_000)), None),
        ("".join(f"  - {{name: i{number}, alpha: 0.5}}\n" for number in range(10_001)), "10001"),
        (
            f"  - {{name: x, alpha: [{', '.join(str(n / 1e5) for n in range(100_000))}]}}\n",
            "give at most 10000",
        ),
        (f"  - {{name: x, alpha: [{'a, ' * 100_000}]}}\n", "alpha.0 (it is 'a')"),
        (
            f"  - {{name: x, grid: {{blocks: [{', '.join(f'[{n}]' for n in range(9000))}], scope: [prefill, all]}}}}\n",
            "18000",
        ),
    ],
    ids=[
        "10000 interventions",
        "10001 interventions",
        "100000 strengths",
        "100000 wrong strengths",
        "a large grid",
    ],
)
def test_many_interventions_are_read_or_refused_at_once(
    write: Callable[[str], Path], interventions: str, part: str | None
) -> None:
    path = write(f"{GOOD}interventions:\n{interventions}")
    start = time.process_time()
    if part is None:
        assert len(read_spec(path).all_interventions()) == 10_000
    else:
        assert part in refuse(lambda: read_spec(path))
    assert time.process_time() - start < 5


@pytest.mark.parametrize("kind", ["a FIFO", "a device", "not UTF-8", "bytes"])
def test_a_query_that_is_no_text_is_one_line(tmp_path: Path, kind: str) -> None:
    path, query = tmp_path / "query.sql", None
    match kind:
        case "a FIFO":
            os.mkfifo(path)
        case "a device":
            path = Path("/dev/zero")
        case "not UTF-8":
            path.write_bytes(b"SELECT 1;\nSELECT '\xff'")
        case _:
            query = os.fsdecode(b"SELECT '\xff'")
    file = path if query is None else None
    message = refuse(lambda: ask(query, file=file, store=str(tmp_path), run=None, format=None, output=None))
    assert ("not UTF-8" if query else kind) in message


def test_fifty_thousand_columns_of_a_query_are_resolved_at_once() -> None:
    names = [f"column{number}" for number in range(50_000)]
    schema = pa.schema([(name, pa.int64()) for name in names])
    row = pa.record_batch([pa.array([1])] * len(names), schema=schema)
    start = time.process_time()
    written = io.BytesIO()
    write_rows([row], schema, written, "json")
    assert json.loads(written.getvalue()) == [dict.fromkeys(names, 1)]
    twice = pa.schema([*schema, ("column7", pa.int64())])
    assert "'column7'" in refuse(lambda: write_rows([], twice, written, "json"))
    assert time.process_time() - start < 5
