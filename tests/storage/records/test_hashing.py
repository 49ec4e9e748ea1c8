"""Keys follow the content, all of it and nothing else."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.errors import StoreError
from storage.records.hashing import (
    SCHEMA_VERSION,
    canonical_json,
    digest,
    digest_bytes,
    digest_file,
    stage_key,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def shuffled(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: shuffled(item) for name, item in reversed(value.items())}
    return [shuffled(item) for item in value] if isinstance(value, list) else value


def paths(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(path for name, item in items for path in paths(item, (*here, name)))]


def same(one: Any, other: Any) -> bool:
    """Equality as JSON has it: 1 is 1.0, but True is not 1."""
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    return one == other


@settings(deadline=None, derandomize=True)
@given(VALUES)
def test_the_order_of_keys_does_not_matter(value):
    assert digest(shuffled(value)) == digest(value)


@settings(deadline=None, derandomize=True)
@given(VALUES, VALUES)
def test_two_values_share_a_digest_only_if_they_are_the_same(one, other):
    assert (digest(one) == digest(other)) == same(one, other)


@settings(deadline=None, derandomize=True)
@given(VALUES, VALUES, st.data())
def test_any_change_anywhere_changes_the_digest(value, other, data):
    *outer, last = data.draw(st.sampled_from(paths([value])[1:]))
    changed = copy.deepcopy([value])
    place: Any = changed
    for name in outer:
        place = place[name]
    before = place[last]
    place[last] = other
    assert (digest(changed) == digest([value])) == same(before, other)


@settings(deadline=None, derandomize=True)
@given(VALUES)
def test_canonical_json_is_json_in_utf_8_that_reads_back_as_the_same_value(value):
    read = json.loads(canonical_json(value).decode("utf-8"))
    assert same(read, value)
    assert canonical_json(read) == canonical_json(value)


def test_canonical_json_is_pinned_so_that_keys_outlive_releases():
    value = {
        "b": (1, 2.0, -0.0, 0.1),
        "a": "é\u2028\0😀",
        "c": {"": None, "x": [True, False, 1e300 * 0 + 1e22]},
    }
    assert canonical_json(value) == (
        '{"a":"é\u2028\\u0000😀","b":[1,2,0,0.1],"c":{"":null,"x":[true,false,10000000000000000000000]}}'.encode()
    )


def test_composed_and_decomposed_letters_differ_because_a_tokenizer_sees_them_differ():
    assert digest("\u00e9") != digest("e\u0301")


@pytest.mark.parametrize(
    ("value", "where"),
    [
        ({"a": [1, math.nan]}, r"\$\.a\[1\] is nan"),
        ({"a": {"b": math.inf}}, r"\$\.a\.b is inf"),
        ([-math.inf], r"\$\[0\] is -inf"),
        ({"a": {1, 2}}, r"\$\.a is a set"),
        ({"p": Path("x")}, r"\$\.p is a \w*Path"),
        ({"b": b"x"}, r"\$\.b is a bytes"),
        ({"a": {1: 2}}, r"\$\.a has the key 1"),
        ({"a": "\ud800"}, r"\$\.a holds half a surrogate pair"),
        ({"\ud800": 1}, "half a surrogate pair"),
        ({"a": 10**400}, r"\$\.a is a huge integer"),
    ],
)
def test_what_json_has_not_is_refused_with_its_place(value, where):
    with pytest.raises(StoreError, match=where):
        canonical_json(value)


def test_content_that_contains_itself_is_refused():
    value: list[Any] = []
    value.append(value)
    with pytest.raises(StoreError, match="contains itself"):
        digest(value)


def test_a_key_depends_on_the_stage_and_on_the_schema_version():
    assert stage_key("embed", {"a": 1}) != stage_key("judge", {"a": 1})
    assert stage_key("embed", {"a": 1}) == digest(
        {"stage": "embed", "schema_version": SCHEMA_VERSION, "content": {"a": 1}}
    )


def test_bytes_and_files_hash_as_sha256(tmp_path):
    data = bytes(range(256)) * 9000
    (tmp_path / "file").write_bytes(data)
    assert digest_file(tmp_path / "file") == digest_bytes(data) == hashlib.sha256(data).hexdigest()


def test_another_process_gives_the_same_key():
    given = "{'b': 'é', 'a': {'x': 0.1, 'y': None}}"
    code = f"from storage.records.hashing import stage_key; print(stage_key('s', {given}))"
    root = Path(__file__).resolve().parents[3]
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip() == stage_key("s", {"a": {"y": None, "x": 0.1}, "b": "é"})
