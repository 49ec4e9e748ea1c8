"""Workers behind a Prefect task runner: jobs are sent out, and what a dying worker had is sent again."""

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
from flows.workers import MOST_DEATHS, Advance
from tasks.stage import Job, Stage

log = logging.getLogger("cmrm.flows")

Future = PrefectFuture[Any]
Runner = TaskRunner[Future]


@dataclass(frozen=True, kw_only=True)
class Death:
    """The end of a worker that had a job: why, and whether it took all jobs of the runner with it."""

    why: str
    takes_all: bool = False


class RunnerWorkers(ABC):
    """Does jobs through a task runner, which is started with the first of them and kept until the run ends."""

    def __init__(self) -> None:
        self._runner: Runner | None = None

    @abstractmethod
    def start(self) -> Runner:
        """Make a task runner and enter it."""

    @abstractmethod
    def most(self) -> int:
        """How many jobs may be with the runner at once; known once it is started."""

    @abstractmethod
    def stop_jobs(self, futures: Iterable[Future]) -> None:
        """Tell the workers to stop what they do, so that they flush and let go."""

    def find_death(self, future: Future) -> Death | None:
        """Say how the worker of a finished future died, None if it did not; raises what the job itself raised."""
        try:
            future.wait()
        except BrokenExecutor:
            return Death(why="its process was killed", takes_all=True)
        state = future.state
        if state.is_crashed():
            return Death(why=state.message or "it crashed")
        if not state.is_completed():
            future.result()
        return None

    def sending(self) -> AbstractContextManager[Any]:
        """What is in force while a job is sent out, such as the resources that it needs."""
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
        source, again = iter(jobs), deque[Job]()
        under_way: dict[Future, Job] = {}
        deaths = 0
        try:
            while self._send(stage, source, again, under_way):
                future = next(as_completed(list(under_way)))
                job = under_way.pop(future)
                death = self.find_death(future)
                if death is None:
                    deaths = 0
                    advance(job.rows)
                    yield job
                    continue
                deaths += 1
                again.append(job)
                log.warning("%s %s goes to another worker: %s", stage.name, job.label, death.why)
                if death.takes_all:
                    again.extend(under_way.values())
                    under_way.clear()
                    self.__exit__(None, None, None)
                if deaths > MOST_DEATHS:
                    raise UserError(
                        f"{stage.name} {job.label}: {deaths} workers died one after the other, without a job finished "
                        f"between them ({death.why}). Look into the system's log for what ended them (often too "
                        "little memory: fewer --workers, or a smaller batch_size), then give the same command again."
                    )
        except BaseException:
            self.stop_jobs(under_way)
            raise

    def _send(
        self,
        stage: Stage[Any],
        source: Iterator[Job],
        again: deque[Job],
        under_way: dict[Future, Job],
    ) -> bool:
        """Send out as many jobs as the runner may have; whether any is under way."""
        while len(under_way) < self._most(stage):
            job = again.popleft() if again else next(source, None)
            if job is None:
                break
            self._runner = self._runner or self.start()
            with self.sending():
                under_way[self._runner.submit(stage.fresh, {"job": job})] = job
        return bool(under_way)

    def _most(self, stage: Stage[Any]) -> int:
        return 1 if self._runner is None or stage.place == "one device" else self.most()
