"""The files are plain: DuckDB alone, pandas and polars read what the catalogue shows, with no code of this project."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pytest

from storage.sql.database import connect
from storage.store import Store
from tests.made_up_store import VECTORS, commit_rows, commit_states, fill, response

# Columns that name a row; with them come its vector, or its answer.
STATES = ["model", "condition", "dataset", "sample_id", "block", "position", "intervention", "alpha"]
ANSWERS = ["model", "dataset", "sample_id", "condition", "intervention", "alpha", "answer", "answer_digest"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of states under two conditions, in half precision as runs write them, and of answers."""
    store = Store.create(tmp_path_factory.mktemp("plain") / "store")
    for condition in ("image", "query"):
        commit_states(store, condition)
    commit_rows(store, "responses", [response("s0", "I cannot."), response("s1", "Sure, é 👩 \n|", 0.5)])
    return store


def read_all(store: Store, kind: str, columns: list[str]) -> dict[str, pd.DataFrame]:
    """One kind of table as each tool reads it, `connect()` first."""
    folder = Path(store.url, kind)
    files = f"{folder}/**/*.parquet"
    with connect(store.url) as sql:
        ours = sql.sql(f"FROM {kind}").df()
    frames = {
        "connect": ours,
        "duckdb": duckdb.connect().sql(f"FROM read_parquet('{files}', hive_partitioning = true)").df(),
        "pandas": pd.read_parquet(folder),
        "polars": pl.scan_parquet(files, hive_partitioning=True).collect().to_pandas(),
    }
    return {name: in_order(frame, columns) for name, frame in frames.items()}


def in_order(frame: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """The rows in one order; pandas reads folders' names as categories."""
    frame = frame.astype({name: str for name in columns if frame[name].dtype.name == "category"})
    return frame[columns].sort_values(columns[:5]).reset_index(drop=True)


def test_every_tool_reads_the_same_answers(store):
    ours, *others = read_all(store, "responses", ANSWERS).values()
    assert len(ours) == 2
    for frame in others:
        pd.testing.assert_frame_equal(frame, ours, check_dtype=False)


def test_every_tool_reads_the_same_states_and_vectors(store):
    frames = read_all(store, "hidden_states", [*STATES, "vector"])
    precision = {"connect": np.float32, "duckdb": np.float32, "pandas": np.float16, "polars": np.float16}
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(frame[STATES], frames["connect"][STATES], check_dtype=False)
        vectors = np.stack(list(frame.vector))
        assert vectors.dtype == precision[name], name
        assert np.array_equal(
            vectors.reshape(2, *VECTORS.shape).astype(np.float64), np.stack([VECTORS] * 2)
        ), name


def test_duckdb_reads_half_and_single_precision_of_one_folder_together(tmp_path):
    store = fill(Store.create(tmp_path / "store"))
    files = f"{store.url}/hidden_states/**/*.parquet"
    alone = duckdb.connect().sql(f"SELECT vector FROM read_parquet('{files}', hive_partitioning = true)")
    with connect(store.url) as sql:
        assert sorted(alone.fetchall()) == sorted(sql.sql("SELECT vector FROM hidden_states").fetchall())
