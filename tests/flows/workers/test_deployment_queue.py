"""Flow runs that no worker takes up, or that one takes up and never begins, on a real Prefect server."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import FlowRun
from prefect.deployments.runner import EntrypointType, RunnerDeployment
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelled, Completed, Pending, Running

from cmrm.errors import UserError
from flows.deployed import do_jobs
from flows.workers import deployment
from flows.workers.base import MOST_CRASHES
from flows.workers.deployment import DeploymentWorkers
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage import Job, Stage, make_stage

# Takes a flow run that waits; the worker polls again after each.
Take = Callable[[SyncPrefectClient, FlowRun], None]


@dataclass(frozen=True, kw_only=True)
class NumberedJob(Job):
    """A small job that is told from others by its number."""

    number: int

    @property
    def stage(self) -> str:
        return "generate"

    def content(self) -> dict[str, Any]:
        return {"number": self.number}


def commit(job: NumberedJob, store: Store) -> Manifest:
    return store.commit("generate", job.key, {f"reports/{job.key}.md": b"done"})


STAGE: Stage[NumberedJob] = make_stage("generate", commit, place="devices")


@pytest.fixture
def jobs(tmp_path: Path) -> list[NumberedJob]:
    store = Store.create(tmp_path / "store").url
    return [NumberedJob(store=store, label=f"shard {number}", rows=1, number=number) for number in range(3)]


@dataclass(kw_only=True)
class Clock:
    """What `time` is to the run that submits flow runs: its seconds pass when the test says so."""

    now: float = 0.0
    polls: int = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.polls += 1
        time.sleep(seconds)

    def wait_for_a_poll(self) -> None:
        """Wait until the states of all flow runs have been read once more."""
        before, end = self.polls, time.monotonic() + 60
        while self.polls < before + 2:
            assert time.monotonic() < end
            time.sleep(0.01)


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """A deployment of a work pool of its own, by name and id."""

    pool: str
    name: str
    id: Any

    def read_states(self) -> Counter[str]:
        with get_client(sync_client=True) as client:
            return Counter(str(run.state_name) for run in self.read_runs(client))

    def read_runs(self, client: SyncPrefectClient) -> list[FlowRun]:
        return client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[self.id]))
        )

    @contextmanager
    def working(self, take: Take, url: str) -> Iterator[None]:
        """Poll as a worker does, in a thread, and `take` each flow run that waits."""
        done = Event()

        def poll() -> None:
            with temporary_settings({PREFECT_API_URL: url}), get_client(sync_client=True) as client:
                client.send_worker_heartbeat(self.pool, "w0")
                while not done.wait(0.02):
                    for run in self.read_runs(client):
                        if run.state is not None and run.state.is_scheduled():
                            take(client, run)

        thread = Thread(target=poll)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()


@pytest.fixture
def deployed(prefect_server: str) -> Deployed:
    pool = uuid4().hex
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name=pool, type="process"))
    made = do_jobs.to_deployment(name=pool, work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH)
    assert isinstance(made, RunnerDeployment)
    return Deployed(pool=pool, name=f"cmrm-jobs/{pool}", id=made.apply())


def do(client: SyncPrefectClient, run: FlowRun) -> None:
    """Do the jobs of a flow run, as a worker's process does; it is pending for no time, whatever the machine."""
    client.set_flow_run_state(run.id, Running())
    for one in run.parameters["jobs"]:
        commit(NumberedJob(**one), Store.open(one["store"]))
    client.set_flow_run_state(run.id, Completed())


def die_before_it_begins(client: SyncPrefectClient, run: FlowRun) -> None:
    """Take a flow run up as a worker does, and do nothing more."""
    client.set_flow_run_state(run.id, Pending())


def share_out(deployed: Deployed, jobs: list[NumberedJob], **patience: float) -> Iterator[Job]:
    return DeploymentWorkers(deployed.name, glance=0.02, **patience).do(STAGE, jobs, advance=lambda _: None)


def test_jobs_of_a_flow_run_that_is_taken_up_and_never_begun_are_done_by_another(
    deployed: Deployed, jobs: list[NumberedJob], prefect_server: str, caplog: pytest.LogCaptureFixture
) -> None:
    crashes = iter([die_before_it_begins])

    def take(client: SyncPrefectClient, run: FlowRun) -> None:
        next(crashes, do)(client, run)

    with deployed.working(take, prefect_server):
        done = list(share_out(deployed, jobs, pending=0.1))
    assert sorted(job.label for job in done) == ["shard 0", "shard 1", "shard 2"]
    assert all(STAGE.is_committed(job) for job in jobs)
    states = deployed.read_states()
    assert states.pop("Cancelled") == 1
    assert set(states) == {"Completed"}
    assert "without starting; its jobs are submitted again" in caplog.text


def test_where_none_is_ever_begun_the_run_ends_as_it_does_where_workers_die(
    deployed: Deployed, jobs: list[NumberedJob], prefect_server: str
) -> None:
    with (
        deployed.working(die_before_it_begins, prefect_server),
        pytest.raises(UserError, match=rf"crashed {MOST_CRASHES + 1} times with no completed job"),
    ):
        list(share_out(deployed, jobs[:1], pending=0.1))
    assert deployed.read_states() == {"Cancelled": MOST_CRASHES + 1}


def test_one_that_begins_in_time_is_waited_for_though_it_works_for_longer(
    deployed: Deployed, jobs: list[NumberedJob], prefect_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(deployment, "time", clock)

    def begin_and_be_slow(client: SyncPrefectClient, run: FlowRun) -> None:
        for state in (Pending(), Running()):
            client.set_flow_run_state(run.id, state)
            clock.wait_for_a_poll()
            clock.now += 0.6
        clock.now += 60
        clock.wait_for_a_poll()
        do(client, run)

    with deployed.working(begin_and_be_slow, prefect_server):
        assert len(list(share_out(deployed, jobs[:1], pending=1.0))) == 1
    assert deployed.read_states() == {"Completed": 1}


def test_one_that_a_person_cancels_still_ends_the_run(
    deployed: Deployed, jobs: list[NumberedJob], prefect_server: str
) -> None:
    def cancel(client: SyncPrefectClient, run: FlowRun) -> None:
        client.set_flow_run_state(run.id, Cancelled(message="not now"))

    with (
        deployed.working(cancel, prefect_server),
        pytest.raises(UserError, match="ended as Cancelled: not now"),
    ):
        list(share_out(deployed, jobs))


def test_where_no_worker_is_online_a_line_says_so_and_the_run_waits(
    deployed: Deployed, jobs: list[NumberedJob], prefect_server: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []

    def wait_for_the_line() -> None:
        end = time.monotonic() + 60
        while not (line := capsys.readouterr().err):
            assert time.monotonic() < end
            time.sleep(0.02)
        said.append(line)

    results: list[Job] = []

    def run() -> None:
        with temporary_settings({PREFECT_API_URL: prefect_server}):
            results.extend(share_out(deployed, jobs, pending=0.5, prompt=0.1))

    thread = Thread(target=run, daemon=True)
    thread.start()
    wait_for_the_line()
    time.sleep(1)
    # Longer than a flow run may be pending: waiting for a worker is no fault.
    assert set(deployed.read_states()) == {"Scheduled"}
    with deployed.working(do, prefect_server):
        thread.join(60)
    assert len(results) == 3
    assert deployed.read_states() == {"Completed": 2}
    assert f"no worker of the work pool {deployed.pool} is online" in said[0]
    assert f"prefect worker start --pool {deployed.pool}" in said[0]
    # Once, and not at each poll.
    assert (said[0] + capsys.readouterr().err).count("is online") == 1


def test_a_queue_with_workers_online_is_logged_alone(
    deployed: Deployed,
    jobs: list[NumberedJob],
    prefect_server: str,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with get_client(sync_client=True) as client:
        client.send_worker_heartbeat(deployed.pool, "w0")
    free = Event()

    def take_once_free(client: SyncPrefectClient, run: FlowRun) -> None:
        if free.wait(0.1) or "wait for a free worker (1 online)" in caplog.text:
            free.set()
            do(client, run)

    with caplog.at_level(logging.INFO, "cmrm.flows"), deployed.working(take_once_free, prefect_server):
        assert len(list(share_out(deployed, jobs, prompt=0.1))) == 3
    assert "online" not in capsys.readouterr().err
