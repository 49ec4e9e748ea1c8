"""A summary is the same after it was stored; an older one is read, and one that cannot be read says how to mend it."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest

from cmrm.errors import UserError
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.report.summary import SCHEMA, Summary, read_summary, write_summary
from tests.made_up_run import MadeUp, make_up
from tests.undrawn import undrawn

# The keys of the JSON that releases before the schema wrote, all of which SQL and people's scripts may read.
EARLIER = (
    "version", "title", "headline", "models", "judges", "table", "curves", "states", "overhead", "agreement",
    "quarantined", "without_effect", "precision", "software", "shifts", "figures",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> MadeUp:
    with undrawn():
        return make_up(Store.create(tmp_path_factory.mktemp("made-up")), strengths=(0.25, 0.5, 1.0))


def read_json(made: MadeUp) -> dict[str, Any]:
    (path,) = [file.path for file in made.report.files if file.path.endswith(".json")]
    content: dict[str, Any] = json.loads(made.store.read(path))
    return content


def commit(folder: Path, data: bytes) -> tuple[Store, Manifest]:
    store, key = Store.create(folder / "store"), "0" * 64
    return store, store.commit("report", key, {f"reports/{key}.json": data})


def test_what_the_stage_stores_has_the_schema_and_the_keys_of_earlier_releases(made: MadeUp) -> None:
    content = read_json(made)
    assert content["schema"] == SCHEMA == 1
    # The made-up data sets have categories and states; a run without has no such key.
    assert set(content) == {"schema", "categories", "state_blocks", *EARLIER}
    assert [len(content[name]) for name in ("curves", "states", "figures")] == [2, 4, 8]
    assert set(content["quarantined"][0]) == {"stage", "dataset", "reason", "rows"}
    assert set(content["shifts"][0]) == {"key", "model", "image", "method", "anchors"}


def test_a_summary_is_the_same_after_it_was_stored(made: MadeUp) -> None:
    summary = read_summary(made.store, made.report)
    assert json.loads(write_summary(summary)) == read_json(made)
    assert Summary.from_json(json.loads(write_summary(summary))) == summary
    assert [sum(one.rows for one in summary.quarantined), summary.judges[0].name] == [3, "refusal"]
    with pytest.raises(FrozenInstanceError):
        summary.title = "other"  # type: ignore[misc]


def test_a_summary_of_an_earlier_release_is_read(made: MadeUp, tmp_path: Path) -> None:
    content = read_json(made)
    for name in ("schema", "without_effect", "precision", "software"):
        del content[name]
    summary = read_summary(*commit(tmp_path, json.dumps(content).encode()))
    assert summary.headline == content["headline"]
    assert (summary.schema, summary.without_effect, summary.precision, summary.software) == (1, (), (), {})


def test_keys_that_a_later_release_adds_are_passed_over(made: MadeUp) -> None:
    content = read_json(made)
    content["more"] = 1
    content["shifts"][0]["more"] = 1
    assert Summary.from_json(content) == read_summary(made.store, made.report)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"schema": 2}, "it has schema 2 and this release reads schema 1"),
        ({"schema": "x"}, "it has schema x"),
        ({"table": None}, "a key is missing or has another shape"),
        ({"judges": [{"name": "refusal"}]}, "a key is missing or has another shape"),
        ({"shifts": None}, "a key is missing or has another shape"),
        ({"states": None}, "a key is missing or has another shape"),
    ],
)
def test_a_summary_that_cannot_be_read_says_where_and_how_to_mend_it(
    made: MadeUp, tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    store, manifest = commit(tmp_path, json.dumps({**read_json(made), **change}).encode())
    with pytest.raises(UserError) as raised:
        read_summary(store, manifest)
    message = str(raised.value)
    assert why in message
    assert manifest.files[0].path in message
    assert message.endswith("remove the file and run the spec again, which makes it again.")
    assert "\n" not in message


@pytest.mark.parametrize("data", [b"[]", b"{", b"\xff"])
def test_what_is_no_json_object_is_no_summary(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(UserError, match="cannot read the summary"):
        read_summary(*commit(tmp_path, data))
