"""Files of earlier releases lack columns that came later: they are read, and those columns are null."""

from __future__ import annotations

import io
import re
from typing import Any

import pyarrow.parquet as pq
import pytest

from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.sql.database import connect
from storage.store import Store
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from storage.tables.schemas import KINDS

LATE = KINDS["judgements"].late


def commit(store: Store, name: str, *, early: bool) -> Manifest:
    """Commit a verdict as this release writes it, or as one did before the late columns were there."""
    row: dict[str, Any] = {
        "judge": name,
        "model": "m@1",
        "dataset": "d",
        "sample_id": "s",
        "condition": "query",
    }
    row |= {
        "intervention": "",
        "answer_digest": "0",
        "verdict": "safe",
        "reference_score": 9.0,
        "prompt_tokens": 7,
        "completion_tokens": 1,
    }
    data = to_parquet(from_rows([row], "judgements"), "judgements")
    if early:
        table = pq.read_table(io.BytesIO(data)).drop_columns(list(LATE))
        sink = io.BytesIO()
        pq.write_table(table, sink)
        data = sink.getvalue()
    key = stage_key("judge", {"name": name})
    return store.commit("judge", key, {table_path("judgements", key): data})


@pytest.mark.parametrize(
    "early", [(True,), (True, False), (False, True)], ids=["early", "early first", "early last"]
)
def test_columns_that_came_late_are_null_in_early_files(store: Store, early: tuple[bool, ...]) -> None:
    names = [f"judge {place}" for place in range(len(early))]
    made = [commit(store, name, early=one) for name, one in zip(names, early, strict=True)]
    wanted = [
        (name, *((None, None, None) if one else (9.0, 7, 1))) for name, one in zip(names, early, strict=True)
    ]
    columns = ("judge", *LATE)
    for manifest, row in zip(made, wanted, strict=True):
        (read,) = read_rows(store, manifest, "judgements", columns).to_pylist()
        assert tuple(read.values()) == row
    with connect(store.url) as sql:
        assert sql.execute(f"SELECT {', '.join(columns)} FROM judgements ORDER BY judge").fetchall() == wanted
        assert sql.execute("SELECT sum(prompt_tokens) + 1 FROM judgements").fetchone() == (
            8 if False in early else None,
        )
        shape = sql.execute("SELECT column_name, column_type FROM (DESCRIBE judgements)").fetchall()
    assert [name for name, _ in shape] == ["key", *KINDS["judgements"].schema.names]
    assert dict(shape)["prompt_tokens"] == "BIGINT"


def test_a_key_picks_its_file_among_early_and_late_ones(store: Store) -> None:
    made = [commit(store, f"judge {place}", early=place % 2 == 0) for place in range(6)]
    with connect(store.url) as sql:
        query = f"FROM judgements WHERE key = '{made[3].key}'"
        (plan,) = (text for _, text in sql.execute(f"EXPLAIN {query}").fetchall())
        assert re.search(r"Scanning Files:\s*1/6", plan), plan
        assert [row[1] for row in sql.execute(query).fetchall()] == ["judge 3"]
