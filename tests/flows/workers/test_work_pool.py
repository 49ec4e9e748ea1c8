"""A real Prefect server and two `prefect worker start` processes do a run's jobs; one flow run is killed at work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter
from prefect.deployments.runner import EntrypointType, RunnerDeployment

from flows.cli import main
from flows.deployed import do_jobs
from flows.run import run_spec
from flows.spec.spec import read_spec
from tests.attempt import ROOT, start
from tests.forked import Forker
from tests.same_tables import compare_stores

pytestmark = [
    pytest.mark.usefixtures("prefect_server"),
    pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for flow runs among the processes of /proc"),
]
POOL = "two-here"


@pytest.fixture
def workers(tmp_path: Path, prefect_server: str) -> Iterator[list[int]]:
    """Two workers of a process pool that has the deployment cmrm-jobs/here; their process ids."""
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
    deployment = do_jobs.to_deployment(
        name="here", work_pool_name=POOL, entrypoint_type=EntrypointType.MODULE_PATH
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
            log = stack.enter_context((tmp_path / f"worker-{number}.log").open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    [*command, "--name", f"w{number}"], cwd=tmp_path, env=environment, stdout=log, stderr=log
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
    # Each flow run imports everything anew, so there are no more than show two stages of several flow runs each.
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


def test_a_missing_deployment_is_an_error_of_one_line(
    small_spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(small_spec), "--store", str(tmp_path / "s"), "--workers", "deployment:cmrm-jobs/nowhere"]
    with pytest.raises(SystemExit) as exit_:
        main(["run", *arguments])
    assert exit_.value.code == 2
    assert "deployment:cmrm-jobs/nowhere: there is no such deployment" in capsys.readouterr().err
