"""The names of stages are those in the stores that people have, and are stored as plain text."""

from __future__ import annotations

import hashlib
import json

from storage.records.hashing import stage_key
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.stage_name import StageName


def test_the_names_are_those_that_stores_hold() -> None:
    assert sorted(StageName) == [
        "apart", "caption", "compare", "direction", "embed", "generate", "import", "ingest", "judge", "judge-texts",
        "look", "overhead", "pair", "probe", "report", "shift",
    ]  # fmt: skip


def test_a_key_is_that_of_the_plain_name() -> None:
    content = {"used": {"embed": ["a"]}}
    plain = json.dumps(
        {"content": content, "schema_version": 3, "stage": "embed"}, sort_keys=True, separators=(",", ":")
    )
    named = {"used": {StageName.EXTRACT_STATES: ["a"]}}
    assert stage_key(StageName.EXTRACT_STATES, named) == hashlib.sha256(plain.encode()).hexdigest()


def test_a_manifest_and_a_row_hold_the_plain_name(tmp_path) -> None:
    store = Store.create(tmp_path)
    key = "0" * 64
    made = store.commit(StageName.INGEST, key, {f"reports/{key}.md": b""}, content={"stage": StageName.PAIR})
    assert store.manifest_files() == [f"manifests/ingest/{key}.json"]
    assert type(made.stage) is str
    assert made.content == {"stage": "pair"}
    row = {"stage": StageName.JUDGE, "dataset": "d", "sample_id": "1", "line": 1, "reason": "r", "raw": None}
    assert from_rows([row], "quarantine")["stage"].to_pylist() == ["judge"]
