"""A run on S3: cut off, killed, resumed and reused, it ends in the same tables as on the disk and tells no secret."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import fsspec
import numpy as np
import pytest

from flows.cli import main
from storage.sql.database import connect
from storage.store import Store
from tasks.generate import stage as generate
from tasks.states import extract as embed
from tests.flows.test_kill import KILLED_RUN, TABLES
from tests.forked import Forker
from tests.s3 import BUCKET, KEY_ID, SECRET, Answer, Asked, Proxy, forget_connections, run_s3, set_environment
from tests.view_server import serve_view

TOKEN = "made-up-token/never+seen=="
STORE = f"s3://{BUCKET}/a folder/store"


@pytest.fixture
def proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """A real S3 server behind a proxy, and the environment that leads there."""
    with run_s3(tmp_path) as server:
        between = Proxy(server.url)
        set_environment(
            monkeypatch,
            tmp_path,
            AWS_ENDPOINT_URL_S3=between.url,
            AWS_SESSION_TOKEN=TOKEN,
            AWS_MAX_ATTEMPTS="1",
        )
        monkeypatch.setenv("CMRM_CACHE", str(tmp_path / "cache"))
        forget_connections()
        yield between
        forget_connections()
        between.stop()


@pytest.fixture
def few_jobs(llava_folder: Path, write_spec: Callable[..., Path], tmp_path: Path) -> Path:
    """The small spec with few shards, conditions and judges, since each job asks the server many times."""
    few: dict[str, Any] = {"shard_size": 50, "conditions": ["query", "image"], "target_states": ["image"]}
    return write_spec(tmp_path / "data", llava_folder, judges=["refusal"], **few)


def read(store: str | Path, query: str) -> list[tuple[Any, ...]]:
    with connect(store) as connection:
        return connection.sql(query).fetchall()


def go_away_at(folder: str) -> Callable[[Asked, Callable[[], Answer]], Answer | None]:
    """A server that answers nothing more once a file of this folder is about to be written."""
    gone: list[Asked] = []

    def trick(asked: Asked, forward: Callable[[], Answer]) -> Answer | None:
        if gone or (asked.method == "PUT" and f"/{folder}/" in asked.path):
            gone.append(asked)
            return None
        return forward()

    return trick


def read_tables(store: str | Path) -> tuple[dict[str, list[tuple[Any, ...]]], np.ndarray]:
    """All rows that do not hold a time, and the vectors of the hidden states in the same order."""
    order = "FROM hidden_states ORDER BY dataset, sample_id, condition, block"
    queries = {name: f"FROM {name} ORDER BY {columns}" for name, columns in TABLES.items()}
    queries["hidden_states"] = f"SELECT * EXCLUDE vector {order}"
    queries["runs"] = "SELECT DISTINCT summary FROM runs WHERE status = 'finished'"
    with connect(store) as sql:
        rows = {name: sql.sql(query).fetchall() for name, query in queries.items()}
        return rows, np.array(sql.sql(f"SELECT vector {order}").fetchnumpy()["vector"].tolist())


def assert_same_tables(one: str | Path, other: str | Path) -> None:
    (rows, vectors), (expected, expected_vectors) = read_tables(one), read_tables(other)
    assert rows == expected
    assert all(rows[name] for name in rows if name != "quarantine")
    # Another batch is another order of summation, so the last bit of a float16 may differ.
    np.testing.assert_allclose(vectors, expected_vectors, rtol=2e-3, atol=1e-3)


def test_a_run_on_s3_survives_a_lost_server_and_a_kill_and_is_reused(
    few_jobs: Path,
    tmp_path: Path,
    proxy: Proxy,
    capfd: pytest.CaptureFixture[str],
    forker: Forker,
) -> None:
    local = tmp_path / "local"
    main(["run", str(few_jobs), "--store", str(local)])
    capfd.readouterr()
    command = ["run", str(few_jobs), "--store", STORE]

    # The server is gone when the first answers are to be kept.
    proxy.trick = go_away_at("responses")
    with pytest.raises(SystemExit) as stopped:
        main(command)
    said = capfd.readouterr()
    assert stopped.value.code == 2
    assert f" {STORE}/" in said.err.splitlines()[-1]
    assert "check that the server is up" in said.err.splitlines()[-1]
    assert "Traceback" not in said.err

    # It is back, and the same command is killed within the next shard.
    proxy.trick = lambda _, forward: forward()
    embedded = read(STORE, "SELECT count(*) FROM hidden_states")
    log = tmp_path / "killed.log"
    killed = forker.start(KILLED_RUN, ["within generate", str(few_jobs), STORE], log=log)
    assert killed.wait() == -signal.SIGKILL
    assert embedded == read(STORE, "SELECT count(*) FROM hidden_states") != [(0,)]

    main(command)
    assert_same_tables(STORE, local)
    # The kill may have met a judge, which works beside, between its commit and the removal of its parts.
    parts = [path.split("/") for path in Store.open(STORE).files.under("parts")]
    assert [part for part in parts if Store.open(STORE).look_up(part[1], part[2]) is None] == []

    # Once more: nothing is made, and no model is loaded.
    def refuse(*_: Any) -> None:
        raise AssertionError("a model was loaded")

    proxy.seen.clear()
    first = capfd.readouterr().out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "load_model_once", refuse)
        patch.setattr(generate, "load_model_once", refuse)
        main(command)
    again = capfd.readouterr().out
    assert table_of(again) == table_of(first) != ""
    written = Counter(asked.path.split("/")[4] for asked in proxy.seen if asked.method == "PUT")
    assert set(written) == {"runs", "heartbeats"}

    main(["sql", "SELECT count(*) AS n FROM responses", "--store", STORE, "--run", "latest"])
    shown = capfd.readouterr().out
    assert shown.split() == ["n", str(read(local, "SELECT count(*) FROM responses")[0][0])]

    proxy.seen.clear()
    pages = look_at(STORE, answers=shown.split()[1])
    assert {asked.method for asked in proxy.seen} <= {"GET", "HEAD"}

    everything = [said.out, said.err, log.read_text(), first, again, shown, *pages]
    assert_no_secret(tmp_path, [text.encode() for text in everything])


def look_at(store: str, *, answers: str) -> list[str]:
    """Look at a store's latest run by `cmrm view`: the list, its report, and a count of its answers; what it showed."""
    opened = Store.open(store)
    latest = opened.find_run("latest")["run_id"]
    with serve_view(opened) as served:
        listed = served.ask("GET", "/")
        report = served.open_report(latest)
        counted = served.query("SELECT count(*) AS n FROM responses", run="latest")
        refused = served.query("FROM read_parquet('s3://elsewhere/x.parquet')")
    assert f'/runs/{latest}"' in listed.text
    assert report.body == opened.read(f"reports/{latest}/report.html")
    assert counted.json["rows"] == [[answers]]
    assert refused.status == 400
    return [listed.text, report.text, counted.text, refused.text]


def table_of(output: str) -> str:
    return output.partition("Report: ")[0]


def assert_no_secret(folder: Path, said: list[bytes]) -> None:
    """Neither what was said, nor the store, nor any file of the run, its cache and Prefect holds what is secret."""
    system = fsspec.filesystem("s3")
    places = [*folder.rglob("*"), *Path(os.environ["PREFECT_HOME"]).rglob("*")]
    written = [path.read_bytes() for path in places if path.is_file()]
    objects = [system.cat_file(name) for name in system.find(BUCKET)]
    assert len(objects) > 20
    for secret in (SECRET, TOKEN, KEY_ID, quote(SECRET, safe=""), quote(TOKEN, safe="")):
        assert not [data for data in [*said, *written, *objects] if secret.encode() in data]


def test_a_mistake_about_s3_costs_one_line_and_status_2(
    small_spec: Path, proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    for arguments, told in (
        (
            ["sql", "FROM runs", "--store", "s3://no-such-bucket/store"],
            "make the bucket, or correct its name",
        ),
        (
            ["sql", "FROM runs", "--store", f"s3://{KEY_ID}:{SECRET}@{BUCKET}/store"],
            "read from the environment",
        ),
        (
            ["run", str(small_spec), "--store", f"s3://{BUCKET}/store?secret={SECRET}"],
            "read from the environment",
        ),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        shown = capfd.readouterr()
        assert stopped.value.code == 2
        assert told in shown.err
        assert len(shown.err.splitlines()) == 1
        assert SECRET not in shown.err + shown.out
