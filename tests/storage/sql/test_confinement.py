"""SQL can neither change the store nor look, write or reach outside it, whatever it tries."""

from __future__ import annotations

import contextlib
import gc
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from storage.sql.database import connect
from storage.store import Store
from tests.made_up_store import VIEWS, fill

HOSTILE = [
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('file:///etc/passwd')",
    "SELECT * FROM read_blob('{store}/runs/r1.json')",
    "SELECT * FROM read_parquet('store://../../etc/passwd')",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM glob('/proc/self/**')",
    "SELECT * FROM parquet_metadata('/etc/passwd')",
    "SELECT * FROM 'https://example.org/x.parquet'",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "COPY (SELECT 1) TO '{out}/stolen.csv'",
    "COPY (SELECT 1) TO '{out}/stolen.csv' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO 'store://stolen.csv'",
    "COPY (SELECT 1) TO 'store://{data}' (FORMAT parquet, USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{database}' (USE_TMP_FILE false)",
    "COPY (SELECT 1) TO '{spill}/stolen.csv' (USE_TMP_FILE false)",
    "EXPORT DATABASE '{out}/all'",
    "IMPORT DATABASE '{out}/all'",
    "ATTACH '{out}/other.db'",
    "ATTACH ':memory:' AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{out}/evil.duckdb_extension'",
    "UPDATE EXTENSIONS",
    "SET enable_external_access = true",
    "SET GLOBAL enable_external_access = true",
    "RESET enable_external_access",
    "SET allowed_directories = ['/']",
    "SET allowed_paths = ['/etc/passwd']",
    "SET lock_configuration = false",
    "RESET lock_configuration",
    "SET python_enable_replacements = true",
    "SET temp_directory = '{out}'",
    "SET profiling_output = '{out}/p'",
    "PRAGMA enable_profiling = 'json'",
    "SET home_directory = '{out}'",
    "SET secret_directory = '{out}'",
    "CREATE PERSISTENT SECRET s (TYPE s3)",
    "CREATE TABLE t (a INTEGER)",
    "CREATE OR REPLACE VIEW responses AS SELECT 1",
    "CREATE MACRO cosine(a, b) AS 1",
    "DROP VIEW responses",
    "DELETE FROM stored.runs",
    "UPDATE stored.runs SET status = 'better'",
    "INSERT INTO stored.runs (run_id) VALUES ('made up')",
    "COMMENT ON VIEW responses IS 'other'",
    "SELECT * FROM hidden",
    "SUMMARIZE '/etc/passwd'",
    "DESCRIBE '/etc/passwd'",
    'FROM "/etc/passwd"',
    "SELECT * FROM sniff_csv('/etc/passwd')",
    "SELECT * FROM read_single_csv_file('/etc/passwd')",
    "SELECT * FROM read_csv('/etc/passwd', store_rejects = true)",
    "SELECT * FROM read_json('/etc/passwd')",
    "SELECT * FROM read_ndjson_objects('/etc/passwd')",
    "SELECT * FROM read_single_json_file('/etc/passwd')",
    "SELECT * FROM read_single_parquet_file('/etc/passwd')",
    "SELECT * FROM parquet_full_metadata('/etc/passwd')",
    "SELECT * FROM parquet_kv_metadata('/etc/passwd')",
    "SELECT * FROM parquet_schema('/etc/passwd')",
    "SELECT * FROM parquet_bloom_probe('/etc/passwd', 'a', 1)",
    "SELECT * FROM read_duckdb('{out}/other.db')",
    "SELECT * FROM iceberg_scan('{out}')",
    "SELECT * FROM delta_scan('{out}')",
    "SELECT * FROM sqlite_scan('{out}/x', 'y')",
    "SELECT * FROM read_xlsx('{out}/x.xlsx')",
    "SELECT * FROM read_text('/proc/self/environ')",
    "SELECT * FROM read_text(['store://x', '/etc/passwd'])",
    "SELECT * FROM read_text('local:///etc/passwd')",
    "SELECT * FROM read_text('memory://x')",
    "SELECT * FROM read_text('hf://datasets/x/y')",
    "SELECT * FROM read_text('gcs://x/y')",
    "SELECT * FROM read_text('az://x/y')",
    "SELECT * FROM read_csv('gzip:///etc/passwd')",
    "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "FROM query('COPY (SELECT 1) TO ''{out}/q.csv''')",
    "FROM query('FROM read_text(''/etc/passwd'')')",
    "FROM query_table('/etc/passwd')",
    "FROM query_table(['/etc/passwd'])",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM ''/etc/passwd'''))",
    "SELECT getenv('HOME')",
    "SELECT * FROM pandas_scan(1)",
    "SELECT * FROM arrow_scan(1, 2, 3)",
    "SELECT * FROM arrow_scan_dumb(1, 2, 3)",
    "SELECT * FROM python_arrow_scan(1)",
    "SELECT * FROM python_map_function((SELECT 1), 2)",
    "SELECT 4096::POINTER",
    "SELECT fit_principal_components([[1, 2], [3, 5]]::FLOAT[][], 1000000000)",
    "SELECT 1; COPY (SELECT 1) TO '{out}/second.csv'",
    "PREPARE p AS COPY (SELECT 1) TO '{out}/prepared.csv'; EXECUTE p",
    "EXPLAIN ANALYZE COPY (SELECT 1) TO '{out}/explained.csv'",
    "CREATE OR REPLACE TEMP TABLE t (a VARCHAR); COPY t FROM '/etc/passwd'",
    "CREATE OR REPLACE TEMP TABLE t AS SELECT 1; COPY t TO '{out}/t.csv'",
    "COPY (SELECT 1) TO '/dev/stdout' (USE_TMP_FILE false)",
    "COPY (SELECT 1 AS a, 2 AS b) TO '{out}/parts' (FORMAT parquet, PARTITION_BY (a))",
    "COPY FROM DATABASE store TO memory",
    "ATTACH 'store://x'",
    "ATTACH '{database}' AS again",
    "ATTACH '{out}/other.db' (READ_ONLY)",
    "DETACH store",
    "EXPORT DATABASE 'store://all'",
    "BEGIN; DROP VIEW responses",
    "TRUNCATE stored.runs",
    "ALTER TABLE stored.runs RENAME TO other",
    "ALTER VIEW responses RENAME TO other",
    "MERGE INTO stored.runs USING (SELECT 'r1' AS run_id) s ON runs.run_id = s.run_id WHEN MATCHED THEN DELETE",
    "CREATE SCHEMA other",
    "CREATE SEQUENCE s",
    "CREATE FUNCTION store.main.f(x) AS x",
    "CALL enable_logging()",
    "CALL enable_logging(storage = 'file', storage_path = '{out}/log')",
    "CALL enable_logging(storage = 'stdout')",
    "CALL enable_profiling(save_location = '{out}/profile')",
    "CALL register_external_resource('x', 'y')",
    "CALL create_external_resource('x')",
    "PRAGMA profile_output = '{out}/p'",
    "PRAGMA import_database('{out}')",
    "PRAGMA copy_database('store', 'temp')",
    "SET allowed_configs = ['lock_configuration']",
    "SET log_query_path = '{out}/log'",
    "SET file_search_path = '/etc'",
    "SET threads = 64",
    "SET memory_limit = '1TB'",
    "CREATE SECRET s (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "INSTALL spatial FROM community",
    "FORCE INSTALL httpfs",
    "INSTALL '{out}/evil.duckdb_extension'",
    "LOAD 'store://evil.duckdb_extension'",
]
# What DuckDB lets pass, since it changes nothing that anybody else sees.
HARMLESS = [
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "ANALYZE",
    "SET VARIABLE x = 1",
    "SELECT write_log('x')",
    "CREATE TEMP TABLE mine AS SELECT 1",
    "CREATE TEMP MACRO mine(a) AS a",
    "CREATE TEMPORARY SECRET s (TYPE http, BEARER_TOKEN 'a')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM read_text('store://**')",
    "SELECT * FROM read_text('store:///etc/passwd')",
    "SELECT * FROM glob('store://**')",
]
# In which schema names are looked up is a session's own affair.
CHANGEABLE = {"schema", "search_path"}


@dataclass(frozen=True, kw_only=True)
class Besieged:
    """One connection for all queries, the folder that holds its store, and what was in both before the first."""

    sql: duckdb.DuckDBPyConnection
    folder: Path
    contents: Mapping[Path, bytes]
    counts: tuple[int, ...]

    def check_unchanged(self) -> None:
        assert count_rows(self.sql) == self.counts
        assert read_all(self.folder) == self.contents


@pytest.fixture(scope="module")
def besieged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Besieged]:
    folder = tmp_path_factory.mktemp("besieged")
    (folder / "out").mkdir()
    with connect(fill(Store.create(folder / "store")).url) as sql:
        yield Besieged(sql=sql, folder=folder, contents=read_all(folder), counts=count_rows(sql))


def read_all(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def count_rows(sql: duckdb.DuckDBPyConnection) -> tuple[int, ...]:
    """The rows of every view, in one query: this is asked after each of the others."""
    return sql.execute(f"SELECT {', '.join(f'(SELECT count(*) FROM {view})' for view in VIEWS)}").fetchone()


@pytest.mark.parametrize("query", HOSTILE)
def test_a_hostile_query_is_refused_and_leaves_no_trace(besieged, query):
    hidden = [1, 2, 3]  # noqa: F841 - a variable that SQL must not see
    sql, folder = besieged.sql, besieged.folder
    spill, database = sql.execute(
        "SELECT current_setting('temp_directory'), (SELECT path FROM duckdb_databases() WHERE path IS NOT NULL)"
    ).fetchone()
    data = next(path for path in besieged.contents if path.suffix == ".parquet").relative_to(folder / "store")
    names = {
        "out": folder / "out",
        "store": folder / "store",
        "data": data,
        "spill": spill,
        "database": database,
    }
    with pytest.raises(duckdb.Error):
        sql.execute(query.format(**names)).fetchall()
    # One of them begins a transaction.
    with contextlib.suppress(duckdb.Error):
        sql.execute("ROLLBACK")
    besieged.check_unchanged()
    assert not Path(spill).exists()
    assert not Path(database).exists()


def test_a_remote_store_cannot_be_written_from_sql(filled):
    with connect(filled.url) as sql:
        for query in (
            "COPY (SELECT 1) TO 'store://x.csv'",
            "SELECT * FROM read_csv('memory://any-store/runs/r1.json')",
        ):
            with pytest.raises(duckdb.Error):
                sql.execute(query).fetchall()
        assert sql.execute("SELECT * FROM read_text('store://runs/r1.json')").fetchall() == []
    assert filled.files.under("runs") == ["runs/r1.json", "runs/r2.json"]


def test_a_person_may_keep_temporary_tables(filled):
    with connect(filled.url) as sql:
        sql.execute(
            "CREATE TEMP TABLE centroid AS SELECT block, count(*) AS n FROM hidden_states GROUP BY block"
        )
        assert sql.execute("SELECT sum(n) FROM centroid").fetchone() == (36,)


@pytest.mark.parametrize("query", HARMLESS)
def test_what_sql_may_do_touches_no_file(besieged, query):
    rows = besieged.sql.execute(query).fetchall()
    assert "root:" not in str(rows)
    besieged.check_unchanged()


def test_no_setting_can_be_changed_by_any_statement(filled):
    values = ("true", "false", "1", "'x'", "'/'", "['/']", "[]", "'1GB'", "'json'", "NULL")
    with connect(filled.url) as sql:
        before = dict(sql.execute("SELECT name, value FROM duckdb_settings()").fetchall())
        assert {"enable_external_access", "lock_configuration", "allowed_configs"} <= before.keys()
        for name in sorted(before.keys() - CHANGEABLE):
            attempts = [f"RESET {name}", f"RESET GLOBAL {name}", f"PRAGMA {name}"]
            for verb in ("SET", "SET GLOBAL", "SET SESSION", "SET LOCAL", "PRAGMA"):
                attempts += [f"{verb} {name} = {value}" for value in values]
            for attempt in attempts:
                with contextlib.suppress(duckdb.Error):
                    sql.execute(attempt).fetchall()
        after = dict(sql.execute("SELECT name, value FROM duckdb_settings()").fetchall())
    assert {name for name in before if before[name] != after[name]} == set()


def test_what_a_large_query_spills_is_private_and_goes_with_the_connection(filled):
    sql = connect(filled.url)
    (spill,) = sql.execute("SELECT current_setting('temp_directory')").fetchone()
    room = Path(spill).parent
    assert stat.S_IMODE(room.stat().st_mode) == 0o700
    # DuckDB makes this folder when it first spills, and lets SQL write into it.
    Path(spill).mkdir()
    sql.execute(f"COPY (SELECT 1) TO '{spill}/x.csv' (USE_TMP_FILE false)")
    with pytest.raises(duckdb.Error):
        sql.execute(f"COPY (SELECT 1) TO '{spill}/../x.csv' (USE_TMP_FILE false)")
    sql.close()
    del sql
    gc.collect()
    assert not room.exists()


def test_one_connection_does_not_see_anothers_files(filled, tmp_path):
    (tmp_path / "other").mkdir()
    with connect(filled.url) as sql, connect(tmp_path / "other") as other:
        data = next(path for path in filled.files.under("hidden_states") if path.endswith(".parquet"))
        assert sql.execute(f"SELECT count(*) FROM read_parquet('store://{data}')").fetchone() == (18,)
        with pytest.raises(duckdb.Error):
            other.execute(f"SELECT count(*) FROM read_parquet('store://{data}')")
