"""Specs and rows as no program would write them: a good spec with one thing wrong, broken YAML, and odd rows."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from datetime import date
from typing import Any

import yaml

# A spec that names each section once; the model's folder and the data files are put in by the test.
GOOD: dict[str, Any] = {
    "title": "good",
    "model": {
        "id": "model",
        "name": "tiny",
        "revision": "main",
        "dtype": "float32",
        "device": "cpu",
        "attn_implementation": "auto",
        "image_backend": "auto",
        "trust_remote_code": False,
        "system": "Be brief.",
    },
    "datasets": {
        "own": {
            "format": "jsonl",
            "path": "own.jsonl",
            "images": "images",
            "limit": 3,
            "categories": ["a"],
            "columns": {"question": "question"},
            "harmful": True,
        },
        "table": {"format": "csv", "path": "table.csv"},
    },
    "anchors": {"from": {"own": 0.5}, "seed": 1},
    "targets": ["own"],
    "conditions": ["query", "image"],
    "images": {"size": 32, "color": [1, 2, 3], "seed": 0},
    "target_states": ["query"],
    "steered_states": ["steered"],
    "interventions": [
        {
            "name": "steered",
            "level": "dataset",
            "image": "blank",
            "method": "mean",
            "alpha": [0.5, 1.0],
            "blocks": [1, 2],
            "scope": "prefill",
            "composition": "incremental",
            "grid": {"scope": ["prefill", "all"], "blocks": ["last", [1, 2]]},
        },
        {
            "name": "projected",
            "kind": "project",
            "alpha": [1.0],
            "states": "query",
            "count": 2,
            "blocks": [1, 2],
            "scope": "every_step",
            "conditions": ["image"],
        },
        {"name": "asked", "kind": "prompt", "template": "be safe. {question}", "system": "Be brief."},
        {"name": "mixed", "kind": "coca", "principle": "be safe. {question}", "alpha": [0.5, 1.0]},
        {"name": "turned", "kind": "random", "seed": 1, "blocks": "all", "image": "blank"},
        {"name": "both", "kind": "stack", "of": ["projected", "asked"], "conditions": ["image"]},
    ],
    "generation": {"max_new_tokens": 4},
    "judges": ["refusal", {"kind": "match", "name": "matched"}],
    "choice": {"utility_loss": 0.1, "over_refusal": 0.1},
    "regression": {"unsafe_rise": 0.1},
    "overhead": {"samples": 1, "repeats": 1, "batch_size": 1},
    "batch_size": 2,
    "reproducible": False,
    "shard_size": 8,
    "store": "store",
}


def _nest(depth: int) -> list[Any]:
    nested: list[Any] = []
    for _ in range(depth):
        nested = [nested]
    return nested


SINGLE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    " ",
    "\u00a0",
    "\u200b\u2060",
    "a" * 400,
    "a" * 20_000,
    "literals",
    "int",
    "a\nb\tc",
    "\u202egnp.exe",
    "e\u0301\U0001f4a3\u0130",
    "../../etc",
    "~nobody-of-this-name/x",
    "/dev/zero",
    "organism://nothing",
    "http://[::1",
    "{0} %s {{x}}",
    "1e999",
    "nan",
    "١٢",
    -1,
    0,
    1,
    2**62,
    2**70,
    -0.0,
    1e308,
    math.nan,
    math.inf,
    date(2024, 2, 29),
    b"\xff\x00",
    [],
    [[]],
    [None],
    [True],
    [0.1] * 500,
    ["a", "a"],
    _nest(30),
)
# In the place of a section these are wrong in several ways.
MAPPINGS: tuple[Any, ...] = ({}, {"a": {"b": []}}, {1: 2}, {"": ""}, {"own": None})
VALUES_A_PLACE = 6

# Broken or endless YAML, as text.
TEXTS: tuple[str, ...] = (
    "",
    "\n\n# nothing\n",
    "---\n",
    "null",
    "just text",
    "- a\n- b",
    "3",
    "model: [unclosed",
    "model: {id: a",
    'title: "unclosed',
    "title: 'unclosed",
    "a:\n\tb: 1",
    "a: b: c",
    "title: 2024-13-01",
    "title: 2024-02-30 25:61:61",
    "title: !!timestamp soon",
    "title: !!bool perhaps",
    'title: !!int ""',
    "title: !!float x",
    "title: !!binary '*'",
    "title: !!python/object/apply:os.system [true]",
    "title: !unknown x",
    "title: !!map x",
    "title: !!omap [1]",
    "title: !!pairs [1]",
    "title: !!set [1]",
    f"title: {'7' * 5001}",
    f"title: 0x{'f' * 5001}",
    f"title: {'1:' * 200}59",
    f"title: {'[' * 3000}",
    f"title: {'[' * 100}{']' * 100}",
    f"title: {'{a: ' * 100}1{'}' * 100}",
    "\n".join(" " * depth + "a:" for depth in range(500)),
    "\n".join("- " * depth for depth in range(1, 200)),
    'title: "\\ud800"',
    'title: "\\0"',
    'title: "\\x1b[31m"',
    "title: a\0b",
    "title: \x1b[31m",
    "title: \x7f",
    "title: &a [*a]",
    "title: &a {b: *a}",
    "title: *nobody",
    "a: &x 1\nb: &x 2",
    "a: &a [1,1,1,1,1,1,1,1,1,1]\n"
    + "\n".join(
        f"{b}: &{b} [{','.join(['*' + a] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "a: &a {x: 1}\n"
    + "\n".join(
        f"{b}: &{b} {{<<: [{','.join(['*' + a] * 10)}]}}" for a, b in zip("abcdefg", "bcdefgh", strict=True)
    ),
    "<<: 3",
    "<<: [1]",
    "? [a]\n: b",
    "? {a: b}\n: c",
    "{a: 1, a: 2}",
    "a: 1\nb: 2\na: 3",
    "1: a\n1.0: b",
    "true: a\n1: b",
    "~: a",
    "a: 1\n---\nb: 2",
    "a: 1\n...\ngarbage: [",
    "%YAML 9.9\n---\na: 1",
    "%TAG ! tag:x,2024:\n---\na: !x 1",
    "@title: a",
    "`title`: a",
    "a: |\n  b\n c",
    "a: >-\nb",
    "&",
    "*",
    "!",
    "{",
    "]",
    ":",
    "-",
    "? ",
    "\ufeffa: 1",
    "a: 1\n\ufeffb: 2",
    "a: \u2028b\u2029c\x85d",
    "{" + ", ".join(f"field{number}: 1" for number in range(500)) + "}",
)

ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1.5,
    2**70,
    1e308,
    math.nan,
    math.inf,
    "",
    " ",
    "\u00a0\u200b",
    "\0",
    "\x1b[31m",
    "\ud800",
    "\u202ex",
    "a" * 400,
    "a" * 50_000,
    "../x.png",
    "/dev/zero",
    "data:image/png;base64,AAAA",
    [],
    ["x"],
    {},
    {"a": 1},
)
ROW_FIELDS = ("id", "question", "image", "caption", "category", "reference", "harmful", "odd")
ROWS: tuple[bytes, ...] = (
    b"",
    b"\n\n",
    b"{",
    b"[]",
    b"null",
    b"3",
    b'{"question": "a"',
    b'{"question": "a", "question": "b"}',
    b"[" * 3000,
    b'{"a":' * 3000,
    b'{"question": ' + b"7" * 5001 + b"}",
    b'{"question": "\xff\xfe"}',
    b"\xff\xfe{\x00",
    b"\xef\xbb\xbf{}",
    b'{"question": "\\ud800"}',
    b"\x00" * 100,
    b'{"question": NaN}',
    b"question\n",
    b"question,question\na,b\n",
    b'question\n"open\n',
    b"question\na,b,c\n",
    b",,,\n,,,\n",
    b'"' * 999,
    b"\r\r\r",
    b"question\r\n\x00\r\n",
    b"q\xe9stion\nx\n",
    b"id,question\n" + b"1,a\n" * 50,
    b",".join(b"column%d" % number for number in range(2000)) + b"\n",
)


def make_hostile_specs() -> Iterator[tuple[str, str]]:
    """Each spec with one thing wrong, and its name: a value of the good one replaced, left out or added."""
    turn = 0
    for path in _list_places(GOOD, ()):
        for _ in range(VALUES_A_PLACE):
            value = SINGLE_VALUES[turn % len(SINGLE_VALUES)]
            # A stride that has no factor in common with their number meets each of them.
            turn += 17
            # In the place of a list of sections, each entry of a long list is wrong.
            if not (_holds_sections(path) and isinstance(value, list) and len(value) > 1):
                yield f"{path} = {value!r:.60}", _dump(_replace(path, value))
        # Without its kind an intervention is CMRM, and each option of the other kind is a mistake of its own.
        if path[-1:] != ("kind",):
            yield f"{path} left out", _dump(_replace(path, _OUT))
    for path in [(), *_list_places(GOOD, ())]:
        if isinstance(_get(path), dict):
            yield f"{path} with more", _dump(_replace((*path, "addition\u200b" * 3), 1))


def make_hostile_texts() -> Iterator[tuple[str, str]]:
    """Each text that is no spec, or one with several things wrong, and its name."""
    for path in _list_places(GOOD, ()):
        if not isinstance(_get(path), str | int | float):
            for value in MAPPINGS:
                yield f"{path} = {value!r:.60}", _dump(_replace(path, value))
    for text in TEXTS:
        yield repr(text[:60]), text


def make_hostile_rows() -> Iterator[tuple[str, bytes]]:
    """Each data file's first bytes, for JSONL and CSV alike."""
    good = {"id": "1", "question": "why?", "image": "0.png"}
    for field in ROW_FIELDS:
        for value in ODD_VALUES:
            name = f"{field} = {value!r:.40}"
            yield name, json.dumps({**good, field: value}).encode()
            cells = {**good, field: str(value)}
            table = f"{','.join(cells)}\n{','.join(cells.values())}\n"
            yield name, table.encode("utf-8", "surrogatepass")
    for row in ROWS:
        yield repr(row[:60]), row


def _holds_sections(path: tuple[Any, ...]) -> bool:
    value = _get(path)
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


_OUT = object()


def _list_places(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    steps: Iterator[tuple[Any, Any]] = iter(())
    if isinstance(value, dict):
        steps = iter(value.items())
    elif isinstance(value, list):
        steps = enumerate(value)
    for step, below in steps:
        yield (*path, step)
        yield from _list_places(below, (*path, step))


def _get(path: tuple[Any, ...]) -> Any:
    value: Any = GOOD
    for step in path:
        value = value[step]
    return value


def _replace(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    spec = copy.deepcopy(GOOD)
    above: Any = spec
    for step in path[:-1]:
        above = above[step]
    if value is _OUT:
        del above[path[-1]]
    else:
        above[path[-1]] = value
    return spec


def _dump(spec: dict[str, Any]) -> str:
    return yaml.dump(
        spec, Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), allow_unicode=True, sort_keys=False
    )
