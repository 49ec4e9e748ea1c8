"""SQL sees what is committed, in its types, and can neither change it nor look elsewhere."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storage.errors import StoreError
from storage.records.hashing import stage_key
from storage.shards.hidden_states import hidden_states_table
from storage.sql.database import connect
from storage.tables.arrow import from_rows, table_path
from storage.tables.parquet import to_parquet
from storage.tables.schemas import KINDS
from tests.made_up_store import MODEL, ODD, VECTORS, VIEWS, commit_shift, commit_states


def test_an_empty_store_has_all_views_with_their_types(any_store):
    with connect(any_store.url) as sql:
        for view in VIEWS:
            assert sql.execute(f"SELECT count(*) FROM {view}").fetchall() == [(0,)]
        types = dict(sql.execute("SELECT column_name, column_type FROM (DESCRIBE hidden_states)").fetchall())
    assert types["vector"] == "FLOAT[]"
    assert types["block"] == "INTEGER"


def test_the_types_of_a_view_do_not_depend_on_whether_there_are_rows(filled, tmp_path):
    (tmp_path / "empty").mkdir()
    with connect(tmp_path / "empty") as empty, connect(filled.url) as full:
        for view in VIEWS:
            shape = f"SELECT column_name, column_type FROM (DESCRIBE {view})"
            assert empty.execute(shape).fetchall() == full.execute(shape).fetchall()


def test_a_place_without_a_store_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="there is no store at"):
        connect(tmp_path / "typo")


def test_vectors_of_half_and_single_precision_are_the_same_floats(filled):
    with connect(filled.url) as sql:
        for condition in ("image", "query"):
            rows = sql.execute(
                "SELECT sample_id, vector, model FROM hidden_states "
                "WHERE block = 4 AND condition = ? ORDER BY sample_id",
                [condition],
            ).fetchall()
            assert np.array_equal(
                np.array([row[1] for row in rows], np.float32), VECTORS[:, 1].astype(np.float32)
            )
            assert {row[2] for row in rows} == {MODEL}


def test_odd_texts_pass_through_sql(filled):
    with connect(filled.url) as sql:
        found = sql.execute("SELECT sample_id, alpha FROM responses WHERE answer = ?", [ODD]).fetchall()
        assert found == [("s1", 0.5)]
        assert sql.execute("SELECT answer FROM responses WHERE alpha = 0.5").fetchone() == (ODD,)
        assert sql.execute("SELECT DISTINCT metadata['note'] FROM shifts").fetchall() == [(ODD,)]


def test_shifts_are_rows_and_join_states_with_the_macros(filled):
    with connect(filled.url) as sql:
        shifts = sql.execute(
            "SELECT block, level, direction, count, image, vector FROM shifts ORDER BY block"
        ).fetchall()
        assert shifts[1] == (4, "dataset", "corrupted minus text", 96, "blank", [0.0, 1.0, 0.0, 0.0])
        found = sql.execute(
            "SELECT cosine(h.vector, s.vector), dot(h.vector, s.vector), l2(h.vector, s.vector), norm(h.vector) "
            "FROM hidden_states h JOIN shifts s USING (model, block) WHERE block = 7 AND condition = 'image' "
            "ORDER BY sample_id"
        ).fetchall()
    states, delta = VECTORS[:, 2].astype(np.float64), np.array([0, 0, 1, 0])
    norms = np.linalg.norm(states, axis=1)
    expected = np.stack(
        [states @ delta / norms, states @ delta, np.linalg.norm(states - delta, axis=1), norms], axis=1
    )
    np.testing.assert_allclose(np.array(found), expected, rtol=1e-5)


def test_safetensors_of_another_make_are_left_out_with_a_reason(store, caplog):
    commit_shift(store, {"other": np.zeros(3, np.float32)}, {}, name="a")
    commit_shift(store, {"delta": np.zeros((2, 2, 2), np.float32)}, {}, name="b")
    commit_shift(store, {"delta": np.zeros((2, 4), np.float16)}, {"count": "many"}, name="c")
    with connect(store.url) as sql:
        assert sql.execute("SELECT block, count FROM shifts ORDER BY block").fetchall() == [
            (0, None),
            (1, None),
        ]
    assert caplog.text.count("is left out of the shifts") == 2


def test_runs_restrict_other_views_to_their_keys(filled):
    with connect(filled.url) as sql:
        rows = sql.execute(
            "SELECT DISTINCT condition FROM hidden_states "
            "WHERE key IN (SELECT unnest(keys) FROM runs WHERE run_id = 'r1')"
        ).fetchall()
        runs = sql.execute(
            "SELECT run_id, model, status, summary->>'unsafe', created_at FROM runs ORDER BY ALL"
        ).fetchall()
    assert rows == [("image",)]
    assert runs[0][:4] == ("r1", MODEL, "done", "0.03")
    assert runs[1] == ("r2", '{"id": "m"}', None, None, None)


def test_data_without_a_manifest_is_not_there(any_store):
    key = commit_states(any_store, "image")
    orphan = any_store.find("embed", key).path("hidden_states").replace(key, "0" * 64)
    any_store.write_bytes(orphan, any_store.read(any_store.find("embed", key).path("hidden_states")))
    with connect(any_store.url) as sql:
        assert sql.execute("SELECT DISTINCT key FROM hidden_states").fetchall() == [(key,)]


def test_a_key_whose_data_is_cut_short_or_missing_is_left_out_with_a_reason(store, caplog):
    caplog.set_level(logging.WARNING, "cmrm.storage")
    key = commit_states(store, "image")
    kept = commit_states(store, "query")
    path = Path(store.url, store.find("embed", key).path("hidden_states"))
    path.write_bytes(path.read_bytes()[:-1])
    for _ in range(2):
        with connect(store.url) as sql:
            assert sql.execute("SELECT DISTINCT key FROM hidden_states").fetchall() == [(kept,)]
        path.unlink(missing_ok=True)
    assert caplog.text.count("is not whole") == 2


def test_a_second_commit_of_a_key_replaces_its_rows(any_store):
    key = stage_key("judge", {})
    for verdict in ("unsafe", "safe"):
        row = {"judge": "refusal", "dataset": "d", "sample_id": "s", "condition": "image", "intervention": ""}
        table = from_rows([row | {"answer_digest": "x", "verdict": verdict}], "judgements")
        any_store.commit("judge", key, {table_path("judgements", key): to_parquet(table, "judgements")})
    with connect(any_store.url) as sql:
        assert sql.execute("SELECT verdict FROM judgements").fetchall() == [("safe",)]


def test_every_view_and_column_is_explained(filled):
    with connect(filled.url) as sql:
        views = dict(
            sql.execute("SELECT view_name, comment FROM duckdb_views() WHERE NOT internal").fetchall()
        )
        silent = sql.execute(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE schema_name = 'main' AND NOT internal AND comment IS NULL"
        ).fetchall()
    assert sorted(views) == sorted({*KINDS, "shifts", "runs", "comparisons"})
    assert all(views.values())
    assert silent == []


def test_threads_that_read_many_row_groups_at_once_read_them_right(any_store):
    vectors = np.random.default_rng(1).standard_normal((300, 16, 8)).astype(np.float16)
    for dataset in ("a", "b", "c"):
        key = stage_key("embed", {"dataset": dataset})
        table = hidden_states_table(
            model="m",
            dataset=dataset,
            sample_ids=[f"s{i:03}" for i in range(300)],
            condition="image",
            blocks=range(16),
            vectors=vectors,
        )
        path = table_path("hidden_states", key, model="m", condition="image")
        any_store.commit("embed", key, {path: to_parquet(table, "hidden_states")})
    with connect(any_store.url) as sql:
        for _ in range(5):
            rows = sql.execute(
                "SELECT vector FROM hidden_states ORDER BY dataset, sample_id, block"
            ).fetchnumpy()
            read = np.stack(list(rows["vector"])).reshape(3, 300, 16, 8)
            assert (read == vectors.astype(np.float32)).all()


def test_many_connections_to_one_store_work_concurrently(filled):
    connections = [connect(filled.url) for _ in range(5)]
    answers = [sql.execute("SELECT count(*) FROM hidden_states").fetchone() for sql in connections]
    assert answers == [(36,)] * 5
    for sql in connections:
        sql.close()


def test_a_connection_that_nobody_closes_says_nothing_when_python_ends(store):
    commit_states(store, "image")
    code = """if True:
        import sys
        from storage.sql.database import connect
        connection = connect(sys.argv[1])
        print(connection.sql("FROM hidden_states").fetchall()[0][2])
    """
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(
        [sys.executable, "-c", code, store.url], cwd=root, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("vlsafe\n", "")
