"""A finished run in W&B and MLflow, both without a network, as their own readers read it."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pytest
from PIL import Image

from cmrm.errors import UserError
from flows.cli import main
from flows.sinks.log import make_flow_sinks
from flows.sinks.read import name_metrics
from storage.store import Store
from tasks.compare.finished_runs import find_report
from tasks.report.summary import read_summary
from tests import users_sinks

ROOT = Path(__file__).parents[3]
RUN = "20260101-000000-abcdef"
KEY = "0123456789abcdef" * 2 + "cafebabe"
# What questions and answers of the run hold.
TEXTS = (b"frobnicate", b"a very long answer")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder in which both libraries keep all that they write."""
    for name in ("DIR", "CACHE_DIR", "CONFIG_DIR", "DATA_DIR"):
        monkeypatch.setenv(f"WANDB_{name}", str(tmp_path / "w"))
    (tmp_path / "w").mkdir()
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", str(tmp_path / "mlruns"))
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    if wandb := sys.modules.get("wandb"):
        # It reads its variables once a process.
        wandb.teardown()


@pytest.fixture(scope="module")
def rates(store: Path) -> dict[str, float]:
    """The rates of the run as its files say, by the names of metrics."""

    def read(kind: str) -> str:
        return f"read_parquet('{store}/{kind}/**/*.parquet', hive_partitioning = false)"

    of = {
        "unsafe": ("refusal", "verdict = 'unsafe'", "harmful"),
        "utility": ("match", "verdict = 'correct'", "NOT harmful"),
        "over_refusal": ("refusal", "answer LIKE 'Sorry%'", "NOT harmful"),
    }
    found = {}
    for measure, (judge, counted, which) in of.items():
        rows = duckdb.sql(f"""
            SELECT dataset, condition, intervention, any_value(r.alpha), avg(({counted})::INT)
            FROM {read("judgements")} AS j JOIN {read("samples")} AS s USING (dataset, sample_id)
            JOIN {read("responses")} AS r USING (dataset, sample_id, condition, intervention)
            WHERE judge = '{judge}' AND verdict <> 'parse_error' AND {which} GROUP BY ALL
        """).fetchall()
        for dataset, condition, intervention, alpha, rate in rows:
            arm = (
                f"{condition}-{intervention.replace(' ', '_')}-alpha-{alpha:g}" if intervention else condition
            )
            found["/".join([measure, *([dataset] if measure == "unsafe" else []), arm])] = rate
    return found


def find_figures(store: Path) -> dict[str, bytes]:
    folder = store / "reports" / RUN / "figures"
    found = {file.name: file.read_bytes() for file in folder.iterdir() if file.suffix in {".png", ".svg"}}
    assert found
    return found


def list_holders(folder: Path, *texts: bytes) -> list[Path]:
    """Files below a folder that hold one of the texts."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if any(text in file.read_bytes() for text in texts)]


def test_mlflow_shows_the_rates_figures_and_what_was_run_once_however_often_it_is_logged(
    store: Path, rates: dict[str, float], place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import mlflow

    for _ in range(2):
        main(["log", RUN, "--to", "mlflow", "--store", str(store)])
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("cmrm")
    (run,) = client.search_runs([experiment.experiment_id])
    said = f"Logged to mlflow: run {run.info.run_id} at {place}/mlruns"
    assert capsys.readouterr().out.splitlines() == [said, said]
    assert run.data.metrics == pytest.approx(rates)
    assert len(client.get_metric_history(run.info.run_id, "unsafe/vlsafe/image")) == 1
    assert run.info.status == "FINISHED"
    assert run.data.tags["cmrm.run"] == RUN
    assert run.data.tags["cmrm.store"] == str(store)
    assert "vlsafe" in run.data.tags["mlflow.note.content"]
    (delta,) = (store / "shifts").glob("*.safetensors")
    record = json.loads((store / "runs" / f"{RUN}.json").read_text())
    for name, expected in {
        "run": RUN,
        "model/revision": record["models"][0]["revision"],
        "datasets": ", ".join(record["spec"]["datasets"]),
        "judges": "refusal, match",
        "intervention/CMRM_dataset/alpha": "1",
        "shift/blank/mean/sha256": sha256(delta.read_bytes()).hexdigest(),
    }.items():
        assert run.data.params[name] == expected
    folder = Path(client.download_artifacts(run.info.run_id, ""))
    assert {file.name: file.read_bytes() for file in (folder / "figures").iterdir()} == find_figures(store)
    (rate,) = duckdb.sql(
        f"SELECT value FROM '{folder}/tables/main.csv' WHERE measure = 'unsafe' AND dataset = 'vlsafe' "
        "AND condition = 'noise'"
    ).fetchall()
    assert rate[0] == pytest.approx(rates["unsafe/vlsafe/noise"])
    assert list_holders(place, KEY.encode(), *TEXTS) == []


def read_records(path: Path) -> Iterator[Any]:
    """Read the records of W&B's file of a run, a log as LevelDB writes it: blocks of 32 KiB, records in pieces."""
    from wandb.proto.wandb_internal_pb2 import Record

    data = path.read_bytes()
    assert data[:4] == b":W&B"
    place, whole = 7, b""
    while place + 7 <= len(data):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        whole += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in {1, 4}:  # whole, or the last piece
            yield Record.FromString(whole)
            whole = b""


def test_wandb_shows_the_rates_tables_and_figures_under_the_runs_own_id(
    store: Path, rates: dict[str, float], place: Path
) -> None:
    main(["log", RUN, "--to", "wandb", "--store", str(store)])
    import wandb

    wandb.teardown()
    (logged,) = (place / "w" / "wandb").glob(f"offline-run-*/run-{RUN}.wandb")
    summary: dict[str, Any] = {}
    config: dict[str, Any] = {}
    runs, steps = set(), set()
    for record in read_records(logged):
        if record.HasField("run"):
            runs.add((record.run.run_id, record.run.project))
            config |= {item.key or item.nested_key[0]: item.value_json for item in record.run.config.update}
        steps |= {record.history.step.num} if record.HasField("history") else set()
        for item in record.summary.update if record.HasField("summary") else ():
            summary[item.key or item.nested_key[0]] = item.value_json
    assert runs == {(RUN, "cmrm")}
    assert steps == {0}
    found = {name: float(text) for name, text in summary.items() if name in rates}
    assert found == pytest.approx(rates)
    record = json.loads((store / "runs" / f"{RUN}.json").read_text())
    assert json.loads(config["model/revision"]) == record["models"][0]["revision"]
    assert json.loads(config["report"]) == f"{store}/reports/{RUN}/report.md"

    media = logged.parent / "files" / "media"
    (path,) = (media / "table" / "tables").glob("main_*.json")
    table = json.loads(path.read_text())
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    (row,) = [
        row
        for row in rows
        if (row["measure"], row["dataset"], row["condition"]) == ("unsafe", "vlsafe", "noise")
    ]
    assert row["value"] == pytest.approx(rates["unsafe/vlsafe/noise"])
    shown = {file.name.partition("_0_")[0]: Image.open(file) for file in media.rglob("*.png")}
    expected = {
        name.removesuffix(".png"): Image.open(io.BytesIO(data))
        for name, data in find_figures(store).items()
        if name.endswith(".png")
    }
    assert shown.keys() == expected.keys()
    for name, picture in expected.items():
        assert shown[name].convert("RGB").tobytes() == picture.convert("RGB").tobytes()
    assert list_holders(place, KEY.encode(), *TEXTS) == []


def test_names_of_metrics_suit_mlflow_however_models_data_sets_and_arms_are_named(store: Path) -> None:
    from mlflow.utils.validation import _validate_metric

    opened = Store.open(store)
    table = read_summary(opened, find_report(opened, opened.read_run(RUN), stages=())).table
    rows = [
        replace(row, arm=row.arm._replace(model=model, intervention=row.arm.intervention * 20))
        for row in table.rows
        for model in ("..", "one/two three")
    ]
    columns = [replace(column, dataset=column.dataset * 20) for column in table.columns]
    named = name_metrics(replace(table, rows=rows, columns=columns))
    assert len(named) == 2 * len(name_metrics(table))
    assert max(named, key=len).endswith("-alpha-1")
    for name, value in named.items():
        _validate_metric(name, value, 0, 0)
        assert len(name) <= 250


@pytest.mark.parametrize(
    ("kind", "variables"),
    [
        ("mlflow", {"MLFLOW_TRACKING_URI": ""}),
        ("mlflow", {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}),
        ("wandb", {"WANDB_DIR": ""}),
        ("wandb", {"WANDB_DIR": "here"}),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_worker_keeps_no_run_in_a_folder_that_it_deletes(
    kind: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__DEPLOYMENT__ID", "a deployment's")
    # The folders of `place` are whole paths.
    assert [*make_flow_sinks([kind])] == [kind]
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    with pytest.raises(
        UserError, match=f"^{kind}: a worker deletes the folder .* set {next(iter(variables))} where"
    ):
        make_flow_sinks([kind])
    monkeypatch.delenv("PREFECT__RUNTIME__DEPLOYMENT__ID")
    assert [*make_flow_sinks([kind])] == [kind]


def refuse(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["log", RUN, *arguments])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return " ".join(said.split())


def test_what_cannot_be_logged_costs_a_line_without_the_key(
    store: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(users_sinks.install(place / "site-packages")))
    monkeypatch.setenv("TRACKER_KEY", users_sinks.FailingSink().key)
    options = ["--store", str(store)]
    assert "--to: name a sink: failing, keeping, mlflow, wandb" in refuse(capsys, *options)
    assert "sink 'wand' is unknown; known sinks: failing" in refuse(capsys, *options, "--to", "wand")
    said = refuse(capsys, *options, "--to", "failing")
    assert said.startswith("cmrm: failing: ConnectionError: 401 401")
    assert "sk-" not in said
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("NETRC", str(place / "none"))
    assert "wandb: nobody is logged in at https://" in refuse(capsys, *options, "--to", "wandb")


def test_a_run_logs_itself_at_its_end_and_no_sink_changes_how_it_ends(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(users_sinks.install(tmp_path / "site-packages")))
    monkeypatch.setenv("TRACKER_KEY", users_sinks.FailingSink().key)
    spec, store = finished / "data" / "spec.yaml", finished / "store"
    done = Store.open(store).runs()[-1]["run_id"]
    users_sinks.LOGGED.clear()
    # All of it is committed, so the command starts no server.
    main(["run", str(spec), "--store", str(store), "--log-to", "failing", "--log-to", "keeping"])
    said = capsys.readouterr()
    assert said.out.splitlines()[-1] == f"Logged to keeping: here, {done}"
    warning = " ".join(said.err.partition("cmrm: ")[2].split())
    assert warning.startswith(f"run {done} is finished, and was not logged: failing: ConnectionError: 401 ")
    assert warning.endswith(f"Log it later: cmrm log {done} --to failing --store {store}")
    assert "sk-" not in warning
    (logged,) = users_sinks.LOGGED
    assert (logged.run_id, logged.report) == (done, f"{store}/reports/{done}/report.md")
    monkeypatch.setenv("CMRM_LOG_TO", "keeping")
    main(["run", str(spec), "--store", str(store)])
    assert len(users_sinks.LOGGED) == 2
    # A sink that is not there is a mistake before the work, not a warning after it.
    with pytest.raises(SystemExit) as ended:
        main(["run", str(spec), "--store", str(store), "--log-to", "nowhere"])
    assert ended.value.code == 2
    assert "sink 'nowhere' is unknown" in capsys.readouterr().err


def test_the_page_of_trackers_holds(
    store: Path, place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commands run, and the sink of its own is given the run."""
    page = (ROOT / "docs" / "trackers.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    commands = [line for kind, text in blocks if kind == "sh" for line in text.splitlines()]
    assert commands
    for command in commands:
        words = shlex.split(command)
        assert words[:2] == ["cmrm", "log"]
        main([*words[1:], "--store", str(store)])
    assert "Logged to mlflow" in capsys.readouterr().out
    (code,) = [text for kind, text in blocks if kind == "python"]
    (entry,) = re.findall(r"^lines = .*$", page, flags=re.MULTILINE)
    (place / "my_package").mkdir()
    (place / "my_package" / "lines.py").write_text(code)
    users_sinks.install(place, lines=[entry.replace('"', "")])
    monkeypatch.syspath_prepend(str(place))
    main(["log", RUN, "--to", "lines", "--store", str(store)])
    (line,) = (place / "runs.jsonl").read_text().splitlines()
    assert json.loads(line)["run"] == RUN
    for name in ("my_package", "my_package.lines"):
        del sys.modules[name]
