"""A real Prefect server and two `prefect worker start` processes do a run's jobs; one flow run is killed at work.

They also do what `cmrm deploy` put there, whose automation tells a listener of a regression.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import VariableCreate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter
from prefect.deployments.runner import EntrypointType, RunnerDeployment

from cmrm.statistics.regression import Thresholds
from flows.cli import main
from flows.deployed import do_jobs
from flows.run import run_spec
from flows.spec.spec import read_spec
from flows.watch.events import send_verdict
from flows.watch.history import PastRun
from storage.store import Store
from tasks.compare.result import ComparedRun, RunComparison
from tests.attempt import ROOT, start
from tests.flows.watching import write_watched_spec
from tests.forked import Forker
from tests.same_tables import compare_stores

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for flow runs among the processes of /proc"),
]
POOL = "two-here"
# What Prefect's worker runs by itself: `python -m prefect.engine`.
ENGINE = "import runpy; runpy.run_module('prefect.engine', run_name='__main__', alter_sys=True)"


@pytest.fixture(scope="module")
def workers(
    tmp_path_factory: pytest.TempPathFactory, prefect_server: str, forker: Forker
) -> Iterator[list[int]]:
    """Two workers of a process pool that has the deployment cmrm-jobs/here; their process ids.

    The flow runs of that deployment have their imports behind them; others are started as Prefect starts them.
    """
    folder = tmp_path_factory.mktemp("workers")
    forker.write_program(folder / "engine", ENGINE)
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    deployment = do_jobs.to_deployment(
        name="here",
        work_pool_name=POOL,
        entrypoint_type=EntrypointType.MODULE_PATH,
        job_variables={"command": str(folder / "engine")},
    )
    assert isinstance(deployment, RunnerDeployment)
    deployment.apply()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PREFECT_API_URL": prefect_server,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--limit", "1"]
    with ExitStack() as stack:
        started = []
        for number in range(2):
            log = stack.enter_context((folder / f"worker-{number}.log").open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, "--name", f"w{number}"], cwd=folder, env=environment, stdout=log, stderr=log
                )
            )
            stack.callback(end, process)
            started.append(process.pid)
        yield started


def end(worker: subprocess.Popen[bytes]) -> None:
    """End a worker, which asks the flow runs that it started to end and waits for them; Prefect's may wait for good."""
    worker.terminate()
    try:
        worker.wait(timeout=30)
    except subprocess.TimeoutExpired:
        worker.kill()


def children(parents: list[int]) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(status.read_text().rpartition(")")[2].split()[1]) in parents:
                found.append(int(status.parent.name))
        except OSError:
            continue
    return found


def test_two_workers_share_a_run_and_a_killed_flow_run_loses_its_jobs_to_another(
    workers: list[int],
    llava_folder: Path,
    tmp_path: Path,
    write_spec: Callable[..., Path],
    forker: Forker,
) -> None:
    # No more jobs than show two stages of several flow runs each.
    spec = write_spec(
        tmp_path / "data",
        llava_folder,
        datasets={"vlsafe": {"format": "vlsafe", "path": "examine.jsonl", "images": "images"}},
        anchors={"from": {"vlsafe": 0.25}, "seed": 1},
        conditions=["query", "image"],
        judges=["refusal"],
        target_states=[],
        shard_size=4,
        batch_size=1,
    )
    run_spec(read_spec(spec), store=str(tmp_path / "calm"))

    attempt = start(
        spec,
        tmp_path / "store",
        log=tmp_path / "log",
        environment=os.environ,
        arguments=["--workers", "deployment:cmrm-jobs/here"],
        forker=forker,
    )
    end = time.monotonic() + 240
    while not (at_work := children(workers)):
        assert attempt.process.poll() is None, attempt.log.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    os.kill(at_work[0], signal.SIGKILL)
    assert attempt.end() == 0, attempt.log.read_text()
    assert "Traceback" not in attempt.log.read_text()
    assert compare_stores(attempt.store, tmp_path / "calm").nothing
    with get_client(sync_client=True) as client:
        # Other tests of this server have deployments of the same flow.
        deployment = client.read_deployment_by_name("cmrm-jobs/here").id
        runs = client.read_flow_runs(deployment_filter=DeploymentFilter(id={"any_": [deployment]}))
    states = sorted(run.state.name for run in runs if run.state is not None)
    assert states.count("Crashed") == 1
    assert set(states) == {"Completed", "Crashed"}
    # Both stages that need a model went out, and people can tell what a flow run does.
    assert {run.name.split(":")[0] for run in runs} == {"embed", "generate"}


class Listener(BaseHTTPRequestHandler):
    """Keeps what it is sent."""

    def do_POST(self) -> None:
        self.server.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def listener() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The URL of a server, and what it is sent."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        server.heard = []
        thread = Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", server.heard
        server.shutdown()
        thread.join()


def wait(until: Callable[[], object]) -> None:
    end = time.monotonic() + 120
    while not until():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.usefixtures("workers")
def test_a_worker_runs_and_logs_an_embedded_spec_where_variables_say_and_a_regression_is_told(
    llava_folder: Path,
    tmp_path: Path,
    write_spec: Callable[..., Path],
    listener: tuple[str, list[dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = write_watched_spec(write_spec, tmp_path, llava_folder)
    moved = tmp_path / "moved"
    (tmp_path / "model").rename(moved)
    url, heard = listener
    Webhook(url=url).save("listener", overwrite=True)
    database = tmp_path / "tracked" / "mlflow.db"
    database.parent.mkdir()
    options = {
        "--store": "{{ prefect.variables.cmrm_store }}",
        "--model": "{{ prefect.variables.cmrm_model }}",
        "--log-to": "mlflow",
        "--job-variable": f'env={{"MLFLOW_TRACKING_URI": "sqlite:///{database}"}}',
        "--notify": "webhook/listener",
    }
    words = [word for option in options.items() for word in option]
    main(["deploy", str(spec), "--pool", POOL, "--watch", "--embed", *words])
    spec.unlink()
    store = tmp_path / "store"
    with get_client(sync_client=True) as client:
        for name, value in (("cmrm_store", str(store)), ("cmrm_model", str(moved))):
            client.create_variable(VariableCreate(name=name, value=value))
        deployment = client.read_deployment_by_name("cmrm-watch/spec").id
        run = client.create_flow_run_from_deployment(deployment)
        wait(lambda: (state := client.read_flow_run(run.id).state) is not None and state.is_final())
        state = client.read_flow_run(run.id).state
    assert state is not None
    assert (state.name, state.message) == ("First", "First run, nothing to compare with.")
    (recorded,) = Store.open(store).runs()
    assert recorded["status"] == "finished"
    assert recorded["models"][0]["id"] == str(moved)
    # What was logged outlasts the worker's own folder.
    with closing(sqlite3.connect(database)) as tracked:
        ((logged, artifacts),) = tracked.execute(
            "SELECT value, artifact_uri FROM tags JOIN runs USING (run_uuid) WHERE key = 'cmrm.run'"
        )
    assert logged == recorded["run_id"]
    assert Path(artifacts).is_relative_to(database.parent)
    shown = (Path(artifacts) / "tables" / "main.csv").read_bytes()
    assert shown == (store / "reports" / logged / "tables" / "main.csv").read_bytes()

    # The event of another deployment's watch is not ours to tell of.
    before, after = (
        PastRun(run_id=name, stamp=name, models=({**recorded["models"][0], "fingerprint": name},), watched={})
        for name in "ab"
    )
    found = made_up_regression(verdict='Regressed: "unsafe" +40')
    for sender in (uuid4(), deployment):
        monkeypatch.setattr("flows.watch.events.deployment", SimpleNamespace(id=sender, name="spec"))
        send_verdict(before, after, found, store=str(tmp_path / str(sender)))
    wait(lambda: heard)
    (told,) = heard
    assert told["event"] == "cmrm.safety.regressed"
    assert told["model"] == recorded["models"][0]["label"]
    assert told["payload"]["verdict"] == 'Regressed: "unsafe" +40'
    assert told["payload"]["store"] == str(tmp_path / str(deployment))


def made_up_regression(*, verdict: str) -> RunComparison:
    run = ComparedRun(run_id="a", created_at="2026-01-01T00:00:00", models=())
    nothing: dict[str, Any] = dict.fromkeys(
        ("changes", "categories", "unpaired", "shifts", "flips", "notes"), ()
    )
    return RunComparison(
        before=run,
        after=run,
        thresholds=Thresholds(),
        regressed=True,
        judged=True,
        verdict=verdict,
        **nothing,
    )


def test_a_missing_deployment_is_an_error_of_one_line(
    small_spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(small_spec), "--store", str(tmp_path / "s"), "--workers", "deployment:cmrm-jobs/nowhere"]
    with pytest.raises(SystemExit) as exit_:
        main(["run", *arguments])
    assert exit_.value.code == 2
    assert "deployment:cmrm-jobs/nowhere: there is no such deployment" in capsys.readouterr().err
