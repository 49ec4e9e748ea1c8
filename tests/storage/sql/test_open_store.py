"""A store opened from Python: its tables as Arrow, pandas and polars."""

from __future__ import annotations

import doctest
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import storage
from storage.sql import open_store as module
from storage.store import Store
from tests.made_up_store import ODD, VECTORS, commit_rows, fill, response


@pytest.fixture
def opened(store: Store):
    """All of the made-up store."""
    with storage.open_store(fill(store).url, run=None) as found:
        yield found


def test_each_table_is_an_arrow_table_of_its_view(opened):
    for rows, view in (
        (opened.samples(), "samples"),
        (opened.answers(), "responses"),
        (opened.verdicts(), "judgements"),
        (opened.hidden_states(), "hidden_states"),
        (opened.shifts(), "shifts"),
    ):
        assert isinstance(rows.table, pa.Table)
        assert rows.table.column_names == opened.sql(f"FROM {view}").table.column_names
        ((count,),) = opened.connection.sql(f"SELECT count(*) FROM {view}").fetchall()
        assert len(rows) == count
    answers = opened.answers(condition="image").table["answer"].to_pylist()
    assert answers == ["I cannot.", ODD]


def test_states_of_a_block_come_in_the_order_of_the_samples(opened):
    rows = opened.hidden_states(block=4, condition="query")
    assert rows.table["sample_id"].to_pylist() == [f"s{i}" for i in range(6)]
    assert set(rows.table["block"].to_pylist()) == {4}
    np.testing.assert_array_equal(np.stack(rows.to_pandas()["vector"]), VECTORS[:, 1].astype(np.float32))
    assert len(opened.hidden_states(block=4)) == 12
    assert opened.hidden_states(block=4, sample_id="s3").to_pandas()["condition"].tolist() == [
        "image",
        "query",
    ]
    assert len(opened.hidden_states(block=5)) == 0
    assert repr(opened.shifts()).startswith("<3 rows of key, model, block")


def test_pandas_polars_and_arrow_see_the_same_rows(opened):
    rows = opened.shifts()
    vectors = [list(row) for row in np.eye(3, 4)]
    assert [list(row) for row in rows.to_pandas()["vector"]] == vectors
    assert rows.to_polars()["vector"].to_list() == vectors
    assert pa.table(rows).equals(rows.table)


def test_a_package_that_is_not_there_is_named_in_one_line(opened, monkeypatch):
    for package, convert in (("pandas", opened.samples().to_pandas), ("polars", opened.samples().to_polars)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(
            storage.StoreError, match=f"^the package {package} is not installed: pip install {package}"
        ):
            convert()


def test_sql_takes_parameters_and_refuses_in_words(opened):
    assert opened.sql("SELECT ? + 1 AS n", [1]).table.to_pylist() == [{"n": 2}]
    assert opened.sql("SELECT $a AS n", {"a": "it's"}).table.to_pylist() == [{"n": "it's"}]
    with pytest.raises(storage.StoreError, match=r"the query was refused: .*nothing"):
        opened.sql("FROM nothing")
    with pytest.raises(storage.StoreError, match="the query was refused"):
        opened.sql("DROP VIEW samples")
    with pytest.raises(storage.StoreError, match="no rows"):
        opened.sql("")


def test_a_run_shows_its_own_rows_and_says_what_is_gone(store: Store, caplog):
    kept = commit_rows(store, "responses", [response("s0", "mine")])
    commit_rows(store, "responses", [response("s1", "another's"), response("s2", "another's")])
    store.write_run("r1", {"status": "finished", "keys": [kept, "f" * 64]})
    with storage.open_store(store.url) as found:
        assert [row["answer"] for row in found.answers().table.to_pylist()] == ["mine"]
        assert found.find_missing_keys() == ["f" * 64]
    assert "rows are missing: of what run latest used, 1 keys are gone" in caplog.text
    with pytest.raises(storage.StoreError, match="has no run r9"):
        storage.open_store(store.url, run="r9")
    with pytest.raises(storage.StoreError, match="there is no store"):
        storage.open_store(Path(store.url) / "nowhere")


def test_the_example_runs(store: Store, monkeypatch):
    fill(store)
    store.write_run("r3", {"status": "finished", "keys": []})
    Path(store.url).rename(Path(store.url).with_name("cmrm-store"))
    monkeypatch.chdir(Path(store.url).parent)
    (test,) = doctest.DocTestFinder(recurse=False).find(module.open_store, "open_store", globs={})
    said: list[str] = []
    assert doctest.DocTestRunner(verbose=False).run(test, out=said.append).failed == 0, "".join(said)


def test_import_storage_imports_nothing_dear():
    code = "import sys, storage; dir(storage); print(*{'duckdb', 'pyarrow', 'fsspec', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
    assert all(getattr(storage, name).__doc__ for name in storage.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        getattr(storage, "nothing")  # noqa: B009 - as an expression of its own it would look useless
