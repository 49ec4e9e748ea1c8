"""Run jobs on a Prefect work pool: each chunk of jobs is a flow run of a deployment."""

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
from prefect.states import Cancelled, Cancelling, State

from cmrm.errors import UserError
from flows.workers.base import MOST_CRASHES, Advance
from flows.workers.deployment_queue import PROMPT, REPEAT, DeploymentQueue
from tasks.core.stage import Job, Stage
from tasks.job_codec import pack_jobs

log = logging.getLogger("cmrm.flows")

# Seconds between two polls of the flow runs.
GLANCE = 2.0
# Longest time a flow run may be pending on a worker, in seconds; a container image may be pulled meanwhile.
PENDING = 1800.0
# Flow runs per online worker: more than one, so that fast workers take more.
RUNS_A_WORKER = 2
# The Prefect server accepts 512 KiB of parameters; those besides the jobs are small.
MOST_BYTES = 384 << 10


@dataclass(kw_only=True)
class _Chunk:
    """Jobs of one flow run, its state, when it entered it, and when it was last logged."""

    run: UUID
    name: str
    jobs: Sequence[Any]
    state: str = ""
    waits: bool = True
    since: float
    logged: float


class DeploymentWorkers:
    """Submits jobs as flow runs of the deployment `name` (FLOW/NAME), for any worker of its pool.

    Only committed jobs count: other jobs of a crashed flow run are submitted again.
    """

    def __init__(
        self, name: str, *, glance: float = GLANCE, pending: float = PENDING, prompt: float = PROMPT
    ) -> None:
        self._name = name
        self._glance = glance
        self._pending = pending
        self._prompt = prompt

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing: `do` cancels running flow runs."""

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        todo = list(jobs)
        crashes = 0
        with get_client(sync_client=True) as client:
            while todo:
                left: list[Job] = []
                for job, done in self._submit(client, stage, todo):
                    if done:
                        crashes = 0
                        advance(job.rows)
                        yield job
                    else:
                        left.append(job)
                crashes += bool(left)
                if crashes > MOST_CRASHES:
                    raise UserError(
                        f"--workers deployment:{self._name}: flow runs of {stage.name} crashed {crashes} times with no "
                        f"completed job, such as {left[0].label}; read their logs in Prefect, then run the same "
                        "command again to resume."
                    )
                todo = left

    def _submit(
        self, client: SyncPrefectClient, stage: Stage[Any], jobs: Sequence[Job]
    ) -> Iterator[tuple[Job, bool]]:
        """Submit all jobs as flow runs, and yield each job when its flow run ends, with whether it is committed."""
        waiting: dict[UUID, _Chunk] = {}
        queue = DeploymentQueue(client, self._name, prompt=self._prompt)
        try:
            for chunk_jobs in self._chunk(queue, stage, jobs):
                chunk = self._start(stage, chunk_jobs)
                waiting[chunk.run] = chunk
            while waiting:
                time.sleep(self._glance)
                for chunk in list(waiting.values()):
                    if self._has_ended(client, stage, chunk):
                        del waiting[chunk.run]
                        for job in chunk.jobs:
                            yield job, stage.is_committed(job)
                queue.explain([chunk.name for chunk in waiting.values() if chunk.waits])
        finally:
            for chunk in waiting.values():
                # A failure to cancel one must not keep the others from being cancelled.
                with suppress(httpx.HTTPError, PrefectHTTPStatusError, ObjectNotFound):
                    client.set_flow_run_state(chunk.run, Cancelling())

    def _chunk(
        self, queue: DeploymentQueue, stage: Stage[Any], jobs: Sequence[Job]
    ) -> Iterator[Sequence[Job]]:
        """Chunk jobs by the number of workers, within the size limit of a flow run's parameters."""
        runs = 1 if stage.place == "one device" else RUNS_A_WORKER * (queue.count_online() or 1)
        most = math.ceil(len(jobs) / runs)
        chunk: list[Job] = []
        size = 0
        for job in jobs:
            bytes_ = len(json.dumps(pack_jobs([job])))
            if chunk and (len(chunk) == most or size + bytes_ > MOST_BYTES):
                yield chunk
                chunk, size = [], 0
            chunk.append(job)
            size += bytes_
        yield chunk

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
        now = time.monotonic()
        return _Chunk(run=run.id, name=run.name, jobs=jobs, since=now, logged=now)

    def _has_ended(self, client: SyncPrefectClient, stage: Stage[Any], chunk: _Chunk) -> bool:
        run = client.read_flow_run(chunk.run)
        state = run.state
        if state is not None and state.is_final():
            _refuse_failure(run, state)
            return True
        now = time.monotonic()
        name = "unknown" if state is None else str(state.name)
        if name != chunk.state:
            chunk.state, chunk.since = name, now
        if state is not None and state.is_pending() and now - chunk.since > self._pending:
            _give_up(client, run, now - chunk.since)
            return True
        chunk.waits = state is not None and state.is_scheduled()
        if now - max(chunk.logged, chunk.since) > REPEAT:
            chunk.logged = now
            if not chunk.waits:
                # A crashed machine does not report anything.
                log.warning(
                    "%s is %s, and has been for %.0f minutes", run.name, name, (now - chunk.since) / 60
                )
            return all(stage.is_committed(job) for job in chunk.jobs)
        return False


def _give_up(client: SyncPrefectClient, run: FlowRun, seconds: float) -> None:
    """Cancel a flow run stuck in Pending on a worker: Prefect 3.8.8 leaves it pending forever."""
    why = (
        f"it has been pending on a worker for {seconds:.0f} s without starting; its jobs are submitted again"
    )
    log.warning("%s is %s: %s", run.name, run.state_name, why)
    # Workers may pick up a crashed flow run again, but not a cancelled one.
    client.set_flow_run_state(run.id, Cancelled(message=why))


def _refuse_failure(run: FlowRun, state: State[Any]) -> None:
    if state.is_failed() or state.is_cancelled():
        raise UserError(
            f"the flow run {run.name} ended as {state.name}: {state.message or 'no reason given'}. Fix "
            "that, then run the same command again to resume; finished work is kept."
        )
    if state.is_crashed():
        log.warning("%s crashed (%s): its jobs are retried on other workers", run.name, state.message)
