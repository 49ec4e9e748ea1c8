"""A query reads the files and the row groups that it needs and no others: the plan says how many."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table
from storage.sql.database import connect
from storage.store import Store
from storage.tables.arrow import table_path
from storage.tables.parquet import to_parquet

MODELS, CONDITIONS, SHARDS, BLOCKS, SAMPLES = ("m=1", "m2"), ("query", "image"), 3, 5, 50
FILES = len(MODELS) * len(CONDITIONS) * SHARDS


class Scan(NamedTuple):
    """What a plan says of its only scan."""

    files: int
    all_files: int
    groups: int
    all_groups: int


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """States of two models under two conditions in three shards."""
    store = Store.create(tmp_path_factory.mktemp("pruning") / "store")
    random = np.random.default_rng(0)
    for model in MODELS:
        for condition in CONDITIONS:
            for shard in range(SHARDS):
                key = key_of(model, condition, shard)
                table = hidden_states_table(
                    model=model,
                    dataset="d",
                    sample_ids=[f"s{shard}-{i:03}" for i in range(SAMPLES)],
                    condition=condition,
                    blocks=range(BLOCKS),
                    vectors=random.standard_normal((SAMPLES, BLOCKS, 4)).astype(np.float16),
                )
                path = table_path("hidden_states", key, model=model, condition=condition)
                store.commit("embed", key, {path: to_parquet(table, "hidden_states")})
    return store


@pytest.fixture(scope="module")
def sql(store: Store) -> Iterator[duckdb.DuckDBPyConnection]:
    """The store, open to SQL."""
    with connect(store.url) as connection:
        yield connection


def key_of(model: str, condition: str, shard: int) -> str:
    return stage_key("embed", {"model": model, "condition": condition, "shard": shard})


def read_plan(sql: duckdb.DuckDBPyConnection, where: str) -> Scan:
    query = f"SELECT sample_id, vector FROM hidden_states WHERE {where}"
    files = re.search(r"Scanning Files: (\d+)/(\d+)", explain(sql, f"EXPLAIN {query}"))
    ((read, every),) = re.findall(
        r"Row Groups Scanned: (\d+) / (\d+)", explain(sql, f"EXPLAIN ANALYZE {query}")
    )
    # Where no file is left out, the plan does not count them.
    told = files.groups() if files else (FILES, FILES)
    return Scan(*map(int, (*told, read, every)))


def explain(sql: duckdb.DuckDBPyConnection, query: str) -> str:
    return str(sql.execute(query).fetchall()[0][1])


def groups_of(store: Store, part: str, wanted: str = "") -> tuple[int, int]:
    """Of the files whose path has `part`: how many row groups may hold what `wanted` says, and how many there are."""
    column, _, value = wanted.partition("=")
    chosen = total = 0
    for path in Path(store.url, "hidden_states").rglob("*.parquet"):
        if part not in str(path):
            continue
        metadata = pq.read_metadata(path)
        total += metadata.num_row_groups
        for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
            (bounds,) = (
                group.column(i).statistics
                for i in range(group.num_columns)
                if group.column(i).path_in_schema == (column or "block")
            )
            kind = type(bounds.min)
            chosen += not wanted or bounds.min <= kind(value) <= bounds.max
    return chosen, total


@pytest.mark.parametrize(
    ("where", "part", "files"),
    [
        ("model = 'm2'", "model=m2/", 6),
        ("condition = 'image'", "condition=image/", 6),
        ("model = 'm=1' AND condition = 'query'", "model=m%3D1/condition=query/", 3),
        (f"key = '{key_of('m2', 'image', 1)}'", key_of("m2", "image", 1), 1),
    ],
)
def test_folders_and_keys_leave_out_whole_files(sql, store, where, part, files):
    scan = read_plan(sql, where)
    assert (scan.files, scan.all_files) == (files, FILES)
    # Of the files that are left, all is read.
    assert (scan.groups, scan.all_groups) == groups_of(store, part)


def test_a_model_that_is_not_there_opens_no_file(sql):
    plan = explain(sql, "EXPLAIN SELECT vector FROM hidden_states WHERE model = 'nobody'")
    assert f"Scanning Files: 0/{FILES}" in plan


def test_a_block_reads_its_row_groups_alone(sql, store):
    expected = groups_of(store, "hidden_states", "block=3")
    assert 0 < expected[0] < expected[1]
    scan = read_plan(sql, "block = 3")
    assert (scan.groups, scan.all_groups) == expected


def test_a_sample_reads_the_row_groups_that_its_order_leaves(sql, store):
    expected = groups_of(store, "hidden_states", "sample_id=s1-007")
    assert 0 < expected[0] < expected[1]
    scan = read_plan(sql, "sample_id = 's1-007'")
    assert (scan.groups, scan.all_groups) == expected


def test_filters_of_all_kinds_work_together(sql, store):
    scan = read_plan(sql, "model = 'm2' AND condition = 'image' AND block = 0 AND sample_id = 's2-000'")
    assert scan.files == SHARDS
    both = groups_of(store, f"{key_of('m2', 'image', 2)}", "block=0")
    assert 0 < scan.groups <= both[0]
    assert scan.all_groups == groups_of(store, "model=m2/condition=image/")[1]


def test_a_filter_reaches_through_a_join_with_the_shifts_and_through_the_macros(sql):
    for query in (
        "SELECT count(*) FROM hidden_states h JOIN (SELECT 'm2' AS model, 2 AS block) d USING (model, block) "
        "WHERE model = 'm2' AND block = 2",
        "SELECT * FROM distance_to_centroid('query') WHERE model = 'm2' AND block = 2",
        "SELECT block, centroid(vector) FROM hidden_states WHERE model = 'm2' AND block = 2 GROUP BY block",
    ):
        found = re.findall(r"Row Groups Scanned: (\d+) / (\d+)", explain(sql, f"EXPLAIN ANALYZE {query}"))
        assert found
        for read, every in found:
            assert 0 < int(read) <= int(every) // BLOCKS


def test_a_query_that_needs_no_vectors_reads_none(sql):
    assert "vector" not in explain(sql, "EXPLAIN SELECT count(DISTINCT sample_id) FROM hidden_states")
