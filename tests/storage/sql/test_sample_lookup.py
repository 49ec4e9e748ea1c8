"""The states of one sample by `states_of_sample` are the rows that a full scan of the files finds, and no others."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table
from storage.sql import sample_index
from storage.sql.database import connect
from storage.store import Store
from storage.tables.arrow import table_path
from storage.tables.parquet import to_parquet

MODEL = "a/b=1 '%'"
IDS = ["s0", "s1", 'it\'s "odd" 👩‍👩‍👧', "s3", ""]
WIDTH = 300


def commit(store: Store, *tables: pa.Table, condition: str, data: bytes | None = None) -> str:
    """One file of these rows, or of these bytes."""
    key = stage_key("embed", {"condition": condition})
    path = table_path("hidden_states", key, model=MODEL, condition=condition)
    store.commit("embed", key, {path: data or to_parquet(pa.concat_tables(tables), "hidden_states")})
    return key


def make_states(condition: str, *, seed: int = 0, kind: type = np.float16, **more: Any) -> pa.Table:
    """States of all samples at two blocks, in many row groups."""
    vectors = np.random.default_rng(seed).standard_normal((len(IDS), 2, WIDTH)).astype(kind)
    given = {"dataset": "d", "sample_ids": IDS, "blocks": [0, 7], **more}
    return hidden_states_table(model=MODEL, condition=condition, vectors=vectors, **given)


@pytest.fixture(autouse=True)
def _small_row_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few rows are in several row groups: two vectors of float16 in one."""
    monkeypatch.setattr("storage.tables.row_groups.ROW_GROUP_BYTES", 4 * WIDTH)


def scan(store: Store, sample: str) -> list[tuple[Any, ...]]:
    """What plain DuckDB finds in the files."""
    files = f"{store.url}/hidden_states/**/*.parquet".replace("'", "''")
    return (
        duckdb.connect()
        .execute(
            """SELECT regexp_extract(filename, '([0-9a-f]{64})[^/]*$', 1), model, dataset, sample_id, condition, block,
            position, intervention, alpha, vector::FLOAT[] FROM read_parquet(?, filename = true,
            hive_partitioning = true, hive_types_autocast = false) WHERE sample_id = ? ORDER BY ALL""",
            [files, sample],
        )
        .fetchall()
    )


def look_up(store: Store, sample: str | None, **options: Any) -> list[tuple[Any, ...]]:
    with connect(store.url, **options) as sql:
        return sql.execute("SELECT * FROM states_of_sample(?) ORDER BY ALL", [sample]).fetchall()


@pytest.fixture
def mixed(store: Store) -> Store:
    """Files of float16 and of float32, of several data sets, positions and strengths, and one that Arrow wrote."""
    steered = make_states("image", seed=1, intervention="cmrm", alpha=0.5)
    elsewhere = make_states("image", seed=2, dataset="e", position="mean_image", sample_ids=["s1", *"abcd"])
    commit(store, make_states("image"), steered, elsewhere, condition="image")
    commit(store, make_states("query", kind=np.float32), condition="query")
    table = make_states("caption", seed=3).drop_columns(["model", "condition"])
    written = pa.BufferOutputStream()
    pq.write_table(table, written, row_group_size=3)
    commit(store, condition="caption", data=written.getvalue().to_pybytes())
    return store


@pytest.mark.parametrize("sample", IDS)
def test_a_sample_has_the_rows_of_a_full_scan(mixed: Store, sample: str) -> None:
    expected = scan(mixed, sample)
    assert len(expected) == (10 if sample == "s1" else 8)
    assert look_up(mixed, sample) == expected


def test_columns_and_types_are_those_of_the_view(mixed: Store) -> None:
    with connect(mixed.url) as sql:
        found, view = sql.sql("FROM states_of_sample('s0')"), sql.sql("FROM hidden_states")
        assert (found.columns, found.types) == (view.columns, view.types)


@pytest.mark.parametrize("sample", [None, "nobody", "' OR true --", "S0", "s0\0"])
def test_what_is_no_sample_has_no_rows(mixed: Store, sample: str | None) -> None:
    assert look_up(mixed, sample) == []


def test_an_empty_store_has_the_columns_and_no_rows(store: Store) -> None:
    with connect(store.url) as sql:
        assert len(sql.sql("FROM states_of_sample('s0')").columns) == 10
    assert look_up(store, "s0") == []


def test_ids_of_one_hash_are_told_apart(mixed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_index, "hash", lambda _: 5, raising=False)
    assert look_up(mixed, "s3") == scan(mixed, "s3")


def test_samples_are_found_while_other_files_are_forgotten(
    mixed: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sample_index, "_MOST_FILES", 1)
    with connect(mixed.url) as sql:
        for sample in (*IDS, *IDS):
            found = sql.execute("SELECT * FROM states_of_sample(?) ORDER BY ALL", [sample]).fetchall()
            assert found == scan(mixed, sample)


def test_each_row_of_a_query_can_look_up_its_own_sample(mixed: Store) -> None:
    with connect(mixed.url) as sql:
        query = (
            "FROM (VALUES ('s3'), ('s1')) AS t(id), states_of_sample(t.id) SELECT id, count(*) GROUP BY id"
        )
        assert sorted(sql.sql(query).fetchall()) == [("s1", 10), ("s3", 8)]


def test_a_run_shows_its_own_states_alone(mixed: Store) -> None:
    key = mixed.find("embed", stage_key("embed", {"condition": "query"}))
    assert key is not None
    mixed.write_run("r", {"status": "done", "keys": [key.key]})
    found = look_up(mixed, "s0", run="r")
    assert {row[4] for row in found} == {"query"}
    assert found == [row for row in scan(mixed, "s0") if row[4] == "query"]


def test_several_threads_find_what_one_finds(mixed: Store) -> None:
    expected = {sample: scan(mixed, sample) for sample in IDS}
    with connect(mixed.url) as sql:
        cursors = [sql.cursor() for _ in range(4)]

        def ask(number: int) -> bool:
            sample = IDS[number % len(IDS)]
            query = "SELECT * FROM states_of_sample(?) ORDER BY ALL"
            return cursors[number % 4].execute(query, [sample]).fetchall() == expected[sample]

        with ThreadPoolExecutor(4) as threads:
            pieces = [
                threads.submit(lambda one=one: [ask(one + 4 * turn) for turn in range(5)]) for one in range(4)
            ]
            assert all(all(piece.result()) for piece in pieces)


def test_states_on_any_storage_are_found(any_store: Store) -> None:
    table = make_states("image")
    commit(any_store, table, condition="image")
    wanted = [row for row in table.to_pylist() if row["sample_id"] == "s1"]
    assert [row[-1] for row in look_up(any_store, "s1")] == [row["vector"] for row in wanted]


def test_a_damaged_file_is_named(mixed: Store) -> None:
    (path,) = Path(mixed.url, "hidden_states").rglob("*condition=query/*.parquet")
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(duckdb.Error, match=r"cannot read .*condition=query.*remove it and run again"):
        look_up(mixed, "s0")


def test_a_file_that_is_cut_short_meanwhile_is_named(mixed: Store) -> None:
    (path,) = Path(mixed.url, "hidden_states").rglob("*condition=image/*.parquet")
    with connect(mixed.url) as sql:
        sql.execute("SELECT * FROM states_of_sample('s1')").fetchall()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 4])
        with pytest.raises(duckdb.Error, match=r"cannot read .*condition=image"):
            sql.execute("SELECT * FROM states_of_sample('s1')").fetchall()
