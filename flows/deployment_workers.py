"""The workers of a Prefect work pool do the jobs: each chunk of them is a flow run of a deployment."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelling, State

from cmrm.errors import UserError
from flows.workers import MOST_DEATHS, Advance
from tasks.parcels import pack_jobs
from tasks.stage import Job, Stage

log = logging.getLogger("cmrm.flows")

# Seconds between two looks at the flow runs, and between two lines of the log about one in which nothing happens.
GLANCE = 2.0
PATIENCE = 300.0
# Flow runs for each worker that is there: the quick ones take more of them.
RUNS_A_WORKER = 2
# Prefect's server takes half a mebibyte of parameters; the rest of them is small.
MOST_BYTES = 384 << 10


@dataclass(kw_only=True)
class _Chunk:
    """Jobs that one flow run has; `since` is when its state was last seen to change."""

    run: UUID
    jobs: Sequence[Any]
    state: str = ""
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

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        todo = list(jobs)
        deaths = 0
        with get_client(sync_client=True) as client:
            while todo:
                left: list[Job] = []
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
                        f"--workers deployment:{self._name}: flow runs of {stage.name} ended {deaths} times without a "
                        f"job finished between them, such as {left[0].label}; look at their logs in Prefect, then "
                        "give the same command again."
                    )
                todo = left

    def _share_out(
        self, client: SyncPrefectClient, stage: Stage[Any], jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, bool]]:
        """Make flow runs of all jobs, and give each job as its flow run ends, with whether it is committed."""
        waiting: dict[UUID, _Chunk] = {}
        try:
            for part in self._cut(client, stage, jobs):
                chunk = self._start(stage, part)
                waiting[chunk.run] = chunk
            while waiting:
                time.sleep(self._glance)
                for chunk in list(waiting.values()):
                    if self._has_ended(client, stage, chunk):
                        del waiting[chunk.run]
                        for job in chunk.jobs:
                            yield job, stage.is_committed(job)
        finally:
            for chunk in waiting.values():
                # One that cannot be told any more must not keep the others from being told.
                with suppress(httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound):
                    client.set_flow_run_state(chunk.run, Cancelling())

    def _cut(
        self, client: SyncPrefectClient, stage: Stage[Any], jobs: Sequence[Job]
    ) -> Iterator[Sequence[Job]]:
        """Some jobs for each worker, and no more than fit into a flow run's parameters."""
        runs = 1 if stage.place == "one device" else RUNS_A_WORKER * self._count_workers(client)
        most = math.ceil(len(jobs) / runs)
        part: list[Job] = []
        size = 0
        for job in jobs:
            bytes_ = len(json.dumps(pack_jobs([job])))
            if part and (len(part) == most or size + bytes_ > MOST_BYTES):
                yield part
                part, size = [], 0
            part.append(job)
            size += bytes_
        yield part

    def _start(self, stage: Stage[Any], jobs: Sequence[Job]) -> _Chunk:
        more = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
        run = run_deployment(
            self._name,
            parameters={
                "stage": stage.name,
                "jobs": pack_jobs(jobs),
                "keys": [job.key for job in jobs],
            },
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

    def _has_ended(self, client: SyncPrefectClient, stage: Stage[Any], chunk: _Chunk) -> bool:
        run = client.read_flow_run(chunk.run)
        state = run.state
        if state is not None and state.is_final():
            _refuse_failure(run, state)
            return True
        name = "unknown" if state is None else str(state.name)
        if name != chunk.state:
            chunk.state, chunk.since = name, time.monotonic()
        elif time.monotonic() - chunk.since > PATIENCE:
            # A machine may die between taking a flow run up and its first heartbeat, and says nothing more.
            log.warning("%s is %s, and has been for %.0f minutes", run.name, chunk.state, PATIENCE / 60)
            chunk.since = time.monotonic()
            return all(stage.is_committed(job) for job in chunk.jobs)
        return False


def _refuse_failure(run: FlowRun, state: State[Any]) -> None:
    if state.is_failed() or state.is_cancelled():
        raise UserError(
            f"the flow run {run.name} ended as {state.name}: {state.message or 'no reason given'}. What is "
            "finished is kept; mend that, then give the same command again."
        )
    if state.is_crashed():
        log.warning("%s crashed (%s): its jobs go to other workers", run.name, state.message)
