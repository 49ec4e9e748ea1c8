"""The workers of a Prefect work pool do the jobs: each chunk of them is a flow run of a deployment."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling, State

from cmrm.errors import UserError
from flows.workers import Advance
from tasks.parcels import pack_jobs
from tasks.stage import AnyJob, Stage

log = logging.getLogger("cmrm.flows")

# Seconds between two looks at the flow runs, and of waiting after which the log says that none was taken up.
GLANCE = 2.0
PATIENCE = 120.0
# Flow runs for each worker that is there: the quick ones take more of them.
RUNS_A_WORKER = 2
# Rounds in a row in which flow runs died and no job was finished.
MOST_DEATHS = 5


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    run: UUID
    jobs: Sequence[Any]
    since: float


class DeploymentWorkers:
    """Shares jobs out as flow runs of the deployment `name` (FLOW/NAME), whichever workers take them up.

    Only what is committed counts: jobs of a flow run that died are shared out again.
    """

    def __init__(self, name: str, *, glance: float = GLANCE) -> None:
        self._name = name
        self._glance = glance

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave nothing behind: `do` cancels what is under way."""

    def do(self, stage: Stage[AnyJob], jobs: Iterable[AnyJob], *, advance: Advance) -> Iterator[AnyJob]:
        todo = list(jobs)
        deaths = 0
        with get_client(sync_client=True) as client:
            while todo:
                left: list[AnyJob] = []
                for job, done in self._share_out(client, stage, todo):
                    if done:
                        deaths = 0
                        advance(job.rows)
                        yield job
                    else:
                        left.append(job)
                deaths += bool(left)
                if deaths > MOST_DEATHS:
                    raise UserError(
                        f"--workers deployment:{self._name}: flow runs of {stage.name} died {deaths} times without a "
                        "job finished between them; look at their logs in Prefect, then give the same command again."
                    )
                todo = left

    def _share_out(
        self, client: SyncPrefectClient, stage: Stage[AnyJob], jobs: Sequence[AnyJob]
    ) -> Iterator[tuple[AnyJob, bool]]:
        """Make flow runs of all jobs, and give each job as its flow run ends, with whether it is committed."""
        runs = 1 if stage.place == "one device" else RUNS_A_WORKER * self._count_workers(client)
        size = math.ceil(len(jobs) / runs)
        chunks = [self._start(stage, jobs[start : start + size]) for start in range(0, len(jobs), size)]
        waiting = {chunk.run: chunk for chunk in chunks}
        try:
            while waiting:
                time.sleep(self._glance)
                for chunk in list(waiting.values()):
                    run = client.read_flow_run(chunk.run)
                    if run.state is None or not run.state.is_final():
                        self._tell_of_waiting(chunk, run)
                        continue
                    del waiting[chunk.run]
                    self._refuse_failure(run, run.state)
                    for job in chunk.jobs:
                        yield job, stage.find(job) is not None
        finally:
            for chunk in waiting.values():
                client.set_flow_run_state(chunk.run, Cancelling(), force=True)

    def _start(self, stage: Stage[AnyJob], jobs: Sequence[AnyJob]) -> _Chunk:
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        run = run_deployment(
            self._name,
            parameters={"stage": stage.name, "jobs": pack_jobs(jobs)},
            flow_run_name=f"{stage.name}: {jobs[0].label}{more}",
            timeout=0,
        )
        assert isinstance(run, FlowRun)
        return _Chunk(run=run.id, jobs=jobs, since=time.monotonic())

    def _count_workers(self, client: SyncPrefectClient) -> int:
        try:
            deployment = client.read_deployment_by_name(self._name)
        except ObjectNotFound:
            raise UserError(
                f"--workers deployment:{self._name}: there is no such deployment; prefect deployment ls lists them "
                "(docs/deploy.md makes one)."
            ) from None
        if deployment.work_pool_name is None:
            return 1
        workers = client.read_workers_for_work_pool(deployment.work_pool_name)
        return max(1, sum(worker.status == "ONLINE" for worker in workers))

    def _tell_of_waiting(self, chunk: _Chunk, run: FlowRun) -> None:
        waited = time.monotonic() - chunk.since
        if run.state is not None and run.state.is_scheduled() and waited % PATIENCE > PATIENCE - self._glance:
            log.warning("%s waits since %.0f s: no worker of its pool has taken it up", run.name, waited)

    def _refuse_failure(self, run: FlowRun, state: State[Any]) -> None:
        if state.is_failed() or state.is_cancelled():
            raise UserError(
                f"the flow run {run.name} ended as {state.name}: {state.message or 'no reason given'}. What is "
                "finished is kept; mend that, then give the same command again."
            )
        if state.is_crashed():
            log.warning("%s crashed (%s): its jobs go to other workers", run.name, state.message)
