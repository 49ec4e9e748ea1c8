"""Queries of `cmrm view`: rows page by page and never all at once, charts, files of all rows, and what is refused."""

from __future__ import annotations

import csv
import http.client
import io
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from flows.view.databases import Databases
from flows.view.results import MOST_KEPT, Results
from storage.store import Store
from tests.made_up_store import ODD, commit_rows, fill, response
from tests.view_server import Served, serve_view

MILLION = "SELECT range AS n, 'row ' || range AS word FROM range(1_000_000)"
MANY = MILLION.replace("1_000_000", "100_000")
# Would run for hours.
ENDLESS = "SELECT sum(a.range * b.range % 7) FROM range(10_000_000) a, range(10_000_000) b"
# Rows of more bytes than DuckDB computes ahead (`streaming_buffer_size`), and the next one after hours. It is one
# pipeline: of the two sides of a UNION ALL, threads may compute the endless one first, and then no row comes.
SLOW = f"""SELECT {", ".join(["(a.range % 7)::HUGEINT"] * 16)} FROM range(10_000_000) a, range(10_000_000) b
WHERE a.range + b.range < 150"""
# A number, a time, words, nothing, a vector, bytes, and a column of few words.
KINDS = """SELECT 1.5 AS number, TIMESTAMP '2020-01-02 03:04:05' AS at, '=1+1' AS "=formula", NULL AS nothing,
[1, 2]::FLOAT[] AS vector, 'ab'::BLOB AS bytes, -5 AS below, '@SUM(A1)'::ENUM('@SUM(A1)', 'b') AS few, '-' AS dash"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return fill(Store.create(tmp_path_factory.mktemp("queries") / "store"))


@pytest.fixture(scope="module")
def served(store: Store) -> Iterator[Served]:
    with serve_view(store) as running:
        yield running


def wait_for(condition: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_page_has_a_hundred_rows_and_says_whether_more_follow(served: Served) -> None:
    first = served.query(MILLION).json
    assert [one["name"] for one in first["columns"]] == ["n", "word"]
    assert [one["numeric"] for one in first["columns"]] == [True, False]
    assert first["rows"] == [[str(n), f"row {n}"] for n in range(100)]
    assert (first["start"], first["more"], first["total"]) == (0, True, None)
    last = served.ask("GET", f"/queries/{first['id']}?start=999950").json
    assert last["rows"] == [[str(n), f"row {n}"] for n in range(999_950, 1_000_000)]
    assert (last["more"], last["total"]) == (False, 1_000_000)
    middle = served.ask("GET", f"/queries/{first['id']}?start=4100").json
    assert middle["rows"][0] == ["4100", "row 4100"]
    assert (middle["more"], middle["total"]) == (True, 1_000_000)
    beyond = served.ask("GET", f"/queries/{first['id']}?start=1000000").json
    assert (beyond["rows"], beyond["more"]) == ([], False)


def test_rows_are_computed_as_they_are_asked_for_and_each_once(store: Store) -> None:
    results = Results(Databases(store))
    # Each time that it is computed, a row is another number.
    _, result = results.add("SELECT random() AS r FROM range(100_000)", None)
    first = result.read(0, 10).to_pylist()
    assert result.total is None
    assert result.read(0, 10).to_pylist() == first
    late = result.read(50_000, 5).to_pylist()
    assert result.read(50_000, 5).to_pylist() == late
    rows = [row for batch in result.batches() for row in batch.to_pylist()]
    assert len(rows) == result.total == 100_000
    assert rows[:10] == first
    assert rows[50_000:50_005] == late
    results.close()


def test_no_more_of_a_large_result_is_read_than_the_page_shows(store: Store) -> None:
    results = Results(Databases(store))
    _, result = results.add("SELECT range AS n, repeat('x', 1000) AS wide FROM range(1_000_000_000)", None)
    assert result.read(0, 101).num_rows == 101
    # A terabyte would be behind it; what DuckDB gave so far is a few batches.
    assert result._file.seek(0, os.SEEK_END) < 64 << 20
    results.close()


def test_a_query_sees_one_run_alone_if_that_is_asked(served: Served) -> None:
    everything = served.query("SELECT count(*) FROM responses").json["rows"]
    of_run = served.query("SELECT count(*) FROM responses", run="r1").json["rows"]
    assert (everything, of_run) == ([["2"]], [["0"]])
    assert "no run nowhere" in served.query("SELECT 1", run="nowhere").json["error"]


def test_a_query_sees_what_was_committed_since_the_last_one(tmp_path: Path) -> None:
    store = fill(Store.create(tmp_path / "store"))
    with serve_view(store) as served:
        assert served.query("SELECT count(*) FROM responses").json["rows"] == [["2"]]
        commit_rows(store, "responses", [response("late", "a")] * 3)
        assert served.query("SELECT count(*) FROM responses").json["rows"] == [["5"]]


def test_temporary_tables_of_one_query_are_not_there_for_the_next(served: Served) -> None:
    mine = "CREATE TEMP TABLE mine AS SELECT 41 AS n; SELECT n + 1 AS m FROM mine"
    assert served.query(mine).json["rows"] == [["42"]]
    assert "mine does not exist" in served.query("FROM mine").json["error"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("SELECT nothing\nFROM responses", "LINE 1: SELECT nothing\n               ^"),
        (" ; ", "the query is empty"),
        ("COPY (SELECT 1) TO '/tmp/x.csv'", "read-only"),
        ("SELECT * FROM read_text('/etc/hostname')", "Permission Error"),
        ("SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')", "Permission Error"),
        ("ATTACH '/tmp/other.duckdb'", "Permission Error"),
        ("INSTALL httpfs", "Permission Error"),
        ("CREATE TABLE t AS SELECT 1", "read-only"),
        ("SET enable_external_access = true", "enable_external_access"),
        ("SELECT error(chr(27) || '[31m<b>')", r"\x1b[31m<b>"),
    ],
)
def test_what_is_refused_is_said_with_its_place_and_is_text(served: Served, query: str, said: str) -> None:
    answer = served.query(query)
    assert (answer.status, answer.headers["content-type"]) == (400, "application/json")
    assert said in answer.json["error"]
    assert "Traceback" not in answer.text
    assert "\x1b" not in answer.json["error"]


def test_a_query_that_fails_midway_says_so_on_the_page_that_it_fails_on_and_in_its_files(
    served: Served,
) -> None:
    # Of one row DuckDB unnests by one thread, which waits once a megabyte of wide rows was not asked for.
    late = (
        "SELECT CASE WHEN n = 200000 THEN error('late') ELSE n END AS n, repeat('x', 100) AS wide "
        "FROM (SELECT unnest(range(300000)) AS n)"
    )
    name = served.query(late).json["id"]
    for _ in range(2):
        answer = served.ask("GET", f"/queries/{name}?start=200000")
        assert (answer.status, answer.json["error"]) == (
            400,
            "the query was refused: Invalid Input Error: late",
        )
    assert served.ask("GET", f"/queries/{name}?start=100").json["rows"][0][0] == "100"
    with pytest.raises(http.client.IncompleteRead):
        served.ask("GET", f"/queries/{name}/rows.csv")


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"null", b'{"query": 3}', b'{"query": "SELECT 1", "run": 3}', b'{"query": "\\ud800"}'],
)
def test_a_body_that_is_no_query_is_refused(served: Served, data: bytes) -> None:
    assert served.ask("POST", "/queries", data=data).status == 400


def test_a_body_without_end_is_not_read(served: Served) -> None:
    data = json.dumps({"query": "SELECT 1 -- " + "x" * (2 << 20)}).encode()
    assert "longer than" in served.ask("POST", "/queries", data=data).json["error"]


def test_a_secret_of_the_environment_is_in_no_error(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MADE_UP_TOKEN", "never-to-be-seen-0000")
    assert "[secret]" in served.query("SELECT error('it was never-to-be-seen-0000')").json["error"]


def test_a_query_whose_asker_goes_away_is_stopped(store: Store) -> None:
    with serve_view(store) as served:
        body = json.dumps({"query": ENDLESS, "run": None}).encode()
        head = (
            f"POST {served.access.root}/queries HTTP/1.1\r\nHost: 127.0.0.1:{served.access.port}\r\n"
            f"Cookie: {served.cookie}\r\nOrigin: {served.origin}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        asker = socket.create_connection(("127.0.0.1", served.access.port))
        asker.sendall(head.encode() + body)
        kept = served.server._results._kept
        wait_for(lambda: any(result._lock.locked() for result in [*kept.values()]))
        asker.close()
        wait_for(lambda: not kept)


def test_a_file_that_nobody_waits_for_any_more_ends_its_query(store: Store) -> None:
    with serve_view(store) as served:
        name = served.query(SLOW).json["id"]
        result = served.server._results.find(name)
        asker = socket.create_connection(("127.0.0.1", served.access.port))
        asker.sendall(
            f"GET {served.access.root}/queries/{name}/rows.csv HTTP/1.1\r\nHost: 127.0.0.1:{served.access.port}\r\n"
            f"Cookie: {served.cookie}\r\n\r\n".encode()
        )
        assert asker.recv(12) == b"HTTP/1.1 200"
        wait_for(result._lock.locked)
        asker.close()
        # Closing the server also ends what DuckDB computes ahead.
        wait_for(lambda: result._stopped and not result._lock.locked())
        assert served.query("SELECT 1 AS n").json["rows"] == [["1"]]


def test_the_last_results_are_kept_and_the_others_say_so(served: Served) -> None:
    old = served.query("SELECT 1 AS n").json["id"]
    for _ in range(MOST_KEPT):
        served.query("SELECT 2 AS n")
    assert "run it again" in served.ask("GET", f"/queries/{old}?start=0").json["error"]
    assert served.ask("GET", "/queries/nothing?start=x").status == 400


def test_csv_has_all_rows_and_nothing_that_a_spreadsheet_evaluates(served: Served) -> None:
    found = served.query(KINDS).json
    answer = served.ask("GET", f"/queries/{found['id']}/rows.csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="rows.csv"'
    assert answer.headers["content-type"].startswith("text/csv")
    head, row = csv.reader(io.StringIO(answer.text))
    assert head == ["number", "at", "'=formula", "nothing", "vector", "bytes", "below", "few", "dash"]
    # A number below zero is no text.
    assert row == [
        "1.5",
        "2020-01-02 03:04:05.000000",
        "'=1+1",
        "",
        "[1, 2]",
        "6162",
        "-5",
        "'@SUM(A1)",
        "'-",
    ]
    long = served.query(MANY).json["id"]
    lines = served.ask("GET", f"/queries/{long}/rows.csv").text.splitlines()
    assert (lines[0], len(lines), lines[-1]) == ("n,word", 100_001, "99999,row 99999")


def test_parquet_has_all_rows_with_their_types_and_texts_as_they_are(served: Served, tmp_path: Path) -> None:
    found = served.query(KINDS).json
    (tmp_path / "rows.parquet").write_bytes(served.ask("GET", f"/queries/{found['id']}/rows.parquet").body)
    (row,) = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    assert (row["=formula"], row["vector"], row["below"], row["few"]) == ("=1+1", [1.0, 2.0], -5, "@SUM(A1)")
    long = served.query(MANY).json["id"]
    (tmp_path / "long.parquet").write_bytes(served.ask("GET", f"/queries/{long}/rows.parquet").body)
    (count,) = duckdb.sql(f"SELECT count(*), sum(n), max(word) FROM '{tmp_path}/long.parquet'").fetchall()
    assert count == (100_000, 4_999_950_000, "row 99999")


def test_a_file_that_cannot_be_is_said_before_it_begins(served: Served) -> None:
    twice = served.query("SELECT 1 AS n, 2 AS n").json["id"]
    answer = served.ask("GET", f"/queries/{twice}/rows.parquet")
    assert (answer.status, "rename one with AS" in answer.text) == (400, True)
    assert served.ask("GET", f"/queries/{twice}/rows.csv").status == 200
    assert served.ask("GET", f"/queries/{twice}/rows.exe").status == 400
    for column in ("INTERVAL 1 DAY", "MAP {}", "union_value(k := 2)"):
        name = served.query(f"SELECT {column} AS c").json["id"]
        answer = served.ask("GET", f"/queries/{name}/rows.parquet")
        assert (answer.status, "cast the column to VARCHAR" in answer.text) == (400, True)
        assert served.ask("GET", f"/queries/{name}/rows.csv").status == 200


def test_cells_are_cut_and_hold_no_control_characters(served: Served) -> None:
    rows = served.query("SELECT answer FROM responses ORDER BY sample_id").json["rows"]
    assert ODD.startswith("nul \0")
    assert rows[1][0].startswith(r"nul \x00, 'quote'")
    assert len(rows[1][0]) == 2001
    long = served.query("SELECT repeat(chr(27), 3000) AS word").json["rows"]
    assert long == [[(r"\x1b" * 500) + "…"]]


def test_points_of_a_chart_are_numbers_times_or_words_by_series(served: Served) -> None:
    query = (
        "SELECT * FROM (VALUES (1, DATE '2020-01-02', 'a', 2.5), (2, NULL, 'b', 'nan'::DOUBLE), (3, DATE '2021-01-01', "
        "NULL, 7.25)) AS t(n, day, word, y)"
    )
    name = served.query(query).json["id"]

    def draw(x: int, y: int, by: str = "") -> Any:
        return served.ask("GET", f"/queries/{name}/chart?x={x}&y={y}&by={by}").json

    assert draw(0, 3)["points"] == [[1, 2.5, ""], [3, 7.25, ""]]
    assert draw(0, 3)["kind"] == "number"
    assert draw(2, 3, "2")["points"] == [["a", 2.5, "a"], ["NULL", 7.25, "NULL"]]
    times = draw(1, 0)
    assert times["kind"] == "time"
    # Days since 1970, in milliseconds.
    assert times["points"] == [[18263 * 86_400_000, 1, ""], [18628 * 86_400_000, 3, ""]]
    name = served.query("SELECT unnest([DATE 'infinity', DATE '290000-12-31', DATE '1970-01-02']), 5").json[
        "id"
    ]
    assert draw(0, 1)["points"] == [[86_400_000, 5, ""]]
    name = served.query(query).json["id"]
    assert "holds no numbers" in draw(0, 2)["error"]
    assert "not there" in draw(0, 9)["error"]


def test_a_chart_of_many_rows_draws_the_first_and_says_so(served: Served) -> None:
    name = served.query(MILLION).json["id"]
    found = served.ask("GET", f"/queries/{name}/chart?x=0&y=0&by=").json
    assert (len(found["points"]), found["more"], found["most"]) == (5000, True, 5000)


def test_the_views_are_told_with_their_columns_and_comments(served: Served) -> None:
    found = served.ask("GET", "/views").json
    views = {view["name"]: view for view in found["views"]}
    assert {"responses", "runs", "shifts", "hidden_states"} <= views.keys()
    assert {"name": "run_id", "kind": "VARCHAR", "comment": "id of the run"} in views["runs"]["columns"]
    assert "cosine(a, b)" in [one["call"] for one in found["macros"]]
