"""Flow and task runs of a run whose process was killed are marked as crashed by the next run in the same store."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    TaskRunFilter,
    TaskRunFilterName,
)
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deployed import do_jobs
from flows.server.dead_runs import FIELD, crash_dead_runs
from flows.server.embedded import EmbeddedServer
from storage.liveness.heartbeat import FIELD as HEARTBEAT
from storage.liveness.heartbeat import keep_heartbeat
from storage.liveness.processes import describe_process
from storage.store import Store
from tests.flows.test_kill import KILLED_RUN
from tests.forked import NO_SERVER, Forker
from tests.made_once import copy_prefect_home

# A run at a task that does not end, with a flow run that it has shared out and that waits for a worker; all of it in a
# flow of the name that is given.
BLOCKED_RUN = """
import sys, time
from prefect import flow, task
from prefect.deployments import run_deployment
from flows.run import Work, make_flow
from flows.workers.base import InProcessWorkers

store, name, around = sys.argv[1:]

@task(name=f"block {name}")
def block():
    print("at work", flush=True)
    time.sleep(600)

def do(stages):
    run_deployment("cmrm-jobs/nobody", parameters={"stage": "x", "jobs": [], "keys": []}, timeout=0,
                   flow_run_name=f"shared {name}")
    block()

@task(name=f"look {name}")
def look():
    work = Work(store=store, title=name, record={"model": "m"}, do=do)
    make_flow(work, "r1")(work, "r1", InProcessWorkers)

@flow(name=around, flow_run_name=f"around {name}")
def outer():
    look()

outer()
"""


@pytest.fixture
def client(prefect_server: str) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def read_flow_run(client: SyncPrefectClient, name: str) -> FlowRun:
    (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name])))
    return run


def wait_for_task_run(client: SyncPrefectClient, name: str, state: str) -> TaskRun:
    """Task runs reach the server as events, a moment after they begin."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        runs = client.read_task_runs(task_run_filter=TaskRunFilter(name=TaskRunFilterName(like_=name)))
        if runs and runs[0].state is not None and runs[0].state.name == state:
            return runs[0]
        time.sleep(0.1)
    raise AssertionError(f"{name} was never {state}: {runs}")


def kill_a_run(store: Store, name: str, around: str, forker: Forker, tmp_path: Path) -> int:
    """Begin the blocked run and kill it at its task; its process id."""
    do_jobs.to_deployment(name="nobody").apply()  # type: ignore[union-attr]
    log = tmp_path / "log"
    process = forker.start(BLOCKED_RUN, [store.url, name, around], log=log)
    end = time.monotonic() + 120
    while "at work" not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end
        time.sleep(0.05)
    with get_client(sync_client=True) as client:
        wait_for_task_run(client, f"block {name}", "Running")
    process.kill()
    process.wait()
    return process.pid


@pytest.mark.parametrize("around", ["cmrm-watch", "of-a-user"])
def test_flow_and_task_runs_of_a_killed_run_are_marked_as_crashed(
    around: str,
    client: SyncPrefectClient,
    forker: Forker,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store.create(tmp_path / "store")
    name = uuid4().hex
    pid = kill_a_run(store, name, around, forker, tmp_path)
    own = read_flow_run(client, f"{name} · r1")
    assert own.state_name == "Running"
    assert store.read_run("r1")[FIELD] == str(own.id)

    crash_dead_runs(store)

    own = read_flow_run(client, f"{name} · r1")
    assert own.state is not None
    assert own.state_name == "Crashed"
    host = describe_process()["host"]
    assert f"run r1 in {store.url} is gone: process {pid} on {host}" in str(own.state.message)
    wait_for_task_run(client, f"block {name}", "Crashed")
    assert read_flow_run(client, f"shared {name}").state_name == "Cancelled"
    expected = "Crashed" if around == "cmrm-watch" else "Running"
    # A flow of the user's own may have sent the run to another process, and go on.
    assert read_flow_run(client, f"around {name}").state_name == expected
    assert wait_for_task_run(client, f"look {name}", expected)
    record = store.read_run("r1")
    assert (record["status"], record["process"]["pid"]) == ("killed", pid)
    # Told once: the second time nobody is asked.
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        caplog.clear()
        crash_dead_runs(store)
    assert caplog.text == ""


def record_dead_run(store: Store) -> None:
    gone = {**describe_process(), "pid": 2**22 + 1}
    store.write_run("r1", {"status": "running", "process": gone, HEARTBEAT: 30.0, FIELD: str(uuid4())})


def test_a_flow_run_that_the_server_does_not_know_is_logged_and_its_record_stays(
    prefect_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.create(tmp_path / "store")
    record_dead_run(store)
    with caplog.at_level(logging.INFO, "cmrm.flows"):
        crash_dead_runs(store)
    assert f"1 dead runs of {store.url} are unknown to this Prefect server" in caplog.text
    assert store.read_run("r1")["status"] == "running"


def test_a_server_that_fails_is_logged_and_stops_nothing(
    prefect_server: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.create(tmp_path / "store")
    record_dead_run(store)
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        crash_dead_runs(store)
    assert f"the Prefect server did not mark dead runs of {store.url} as crashed" in caplog.text
    assert store.read_run("r1")["status"] == "running"


def test_a_run_that_goes_on_elsewhere_is_left_alone(prefect_server: str, tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    far = {**describe_process(), "host": "elsewhere"}
    with keep_heartbeat(store, "r1"), get_client(sync_client=True) as client:
        flow_run = client.create_flow_run(do_jobs, parameters={"stage": "x", "jobs": [], "keys": []})
        store.write_run("r1", {"status": "running", "process": far, HEARTBEAT: 30.0, FIELD: str(flow_run.id)})
        crash_dead_runs(store)
        assert client.read_flow_run(flow_run.id).state_name == "Pending"
        # The heartbeat stopped long ago.
        os.utime(Path(store.url, "heartbeats/r1.json"), (0, 0))
        crash_dead_runs(store)
        assert client.read_flow_run(flow_run.id).state_name == "Crashed"


def test_the_same_command_on_an_embedded_server_marks_the_run_that_was_killed(
    tmp_path: Path, llava_folder: Path, write_short_spec: Callable[[Path, Path], Path], forker: Forker
) -> None:
    spec = write_short_spec(tmp_path / "data", llava_folder)
    home = copy_prefect_home(tmp_path / "prefect")
    log = tmp_path / "log"
    for moment, status in (("report", -signal.SIGKILL), ("never", 0)):
        arguments = [moment, str(spec), str(tmp_path / "store")]
        run = forker.start(
            NO_SERVER + KILLED_RUN, arguments, log=log, environment={"PREFECT_HOME": str(home)}
        )
        assert run.wait(timeout=300) == status, log.read_text()
        # A killed run leaves its heartbeat, which the next run removes with its own.
        heartbeats = list((tmp_path / "store" / "heartbeats").glob("*.json"))
        assert len(heartbeats) == (moment == "report")
    killed, finished = Store.open(tmp_path / "store").runs()
    assert (killed["status"], finished["status"]) == ("killed", "finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(home))
        server = EmbeddedServer(log=home / "server.log")
        server.start()
        server.wait()
    with temporary_settings({PREFECT_API_URL: server.url}), get_client(sync_client=True) as client:
        states = {str(run.id): run.state_name for run in client.read_flow_runs()}
        tasks = {run.state_name for run in client.read_task_runs()}
    server.stop()
    assert states.pop(killed[FIELD]) == "Crashed"
    assert set(states.values()) == {"Completed"}
    assert "Running" not in tasks
