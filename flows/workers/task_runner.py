"""Workers behind a Prefect task runner: submit jobs, and resubmit the jobs of a crashed worker."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import BrokenExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from prefect.futures import PrefectFuture, as_completed
from prefect.task_runners import TaskRunner

from cmrm.errors import UserError
from flows.workers.base import MOST_CRASHES, Advance
from tasks.core.stage import Job, Stage

log = logging.getLogger("cmrm.flows")

Future = PrefectFuture[Any]
Runner = TaskRunner[Future]


@dataclass(frozen=True, kw_only=True)
class WorkerCrash:
    """Crash of a worker with a job: the cause, and whether all jobs of the runner are lost with it."""

    why: str
    takes_all: bool = False


class RunnerWorkers(ABC):
    """Runs jobs through a task runner, which starts at the first job and lives until the run ends."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    @abstractmethod
    def start(self) -> Runner:
        """Start a task runner."""

    @abstractmethod
    def most(self) -> int:
        """Most jobs in flight at once; known once the runner is started."""

    @abstractmethod
    def stop_jobs(self, futures: Iterable[Future]) -> None:
        """Signal the workers to flush finished rows and stop."""

    def find_crash(self, future: Future) -> WorkerCrash | None:
        """Return the worker crash behind a finished future, None if there was none; raises what the job raised."""
        try:
            future.wait()
        except BrokenExecutor:
            return WorkerCrash(why="its process was killed", takes_all=True)
        state = future.state
        if state.is_crashed():
            return WorkerCrash(why=state.message or "it crashed")
        if not state.is_completed():
            future.result()
        return None

    def sending(self) -> AbstractContextManager[Any]:
        """Context in which a job is submitted, such as its Ray resources."""
        return nullcontext()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.__exit__(kind, error, trace)

    def do(self, stage: Stage[Any], jobs: Iterable[Job], *, advance: Advance) -> Generator[Job]:
        source, retries = iter(jobs), deque[Job]()
        in_flight: dict[Future, Job] = {}
        crashes = 0
        try:
            while self._submit(stage, source, retries, in_flight):
                future = next(as_completed(list(in_flight)))
                job = in_flight.pop(future)
                crash = self.find_crash(future)
                if crash is None:
                    crashes = 0
                    advance(job.rows)
                    yield job
                    continue
                crashes += 1
                retries.append(job)
                log.warning("%s %s is retried on another worker: %s", stage.name, job.label, crash.why)
                if crash.takes_all:
                    retries.extend(in_flight.values())
                    in_flight.clear()
                    self.__exit__(None, None, None)
                if crashes > MOST_CRASHES:
                    raise UserError(
                        f"{stage.name} {job.label}: {crashes} consecutive worker crashes with no completed job "
                        f"({crash.why}). Find the cause in the system log (often the OOM killer: use fewer --workers "
                        "or a smaller batch_size), then run the same command again to resume."
                    )
        except BaseException:
            self.stop_jobs(in_flight)
            raise

    def _submit(
        self,
        stage: Stage[Any],
        source: Iterator[Job],
        retries: deque[Job],
        in_flight: dict[Future, Job],
    ) -> bool:
        """Submit as many jobs as the runner may have in flight; returns whether any is."""
        while len(in_flight) < self._most(stage):
            job = retries.popleft() if retries else next(source, None)
            if job is None:
                break
            self._runner = self._runner or self.start()
            with self.sending():
                in_flight[self._runner.submit(stage.fresh, {"job": job})] = job
        return bool(in_flight)

    def _most(self, stage: Stage[Any]) -> int:
        return 1 if self._runner is None or stage.place == "one device" else self.most()
