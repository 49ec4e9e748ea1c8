"""A run's stages: what is committed is reused, the rest goes to the workers, and both are shown and logged."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from contextvars import copy_context
from typing import Any, Generic, Protocol

from flows.progress import Bar, Bars, draw_bars, draw_tentative_bars
from flows.workers import Here, Workers
from storage.manifest import Manifest
from storage.rows import expect_manifest
from storage.store import Store
from tasks.reasons import Reasons
from tasks.stage import AnyJob, Job, Stage

log = logging.getLogger("cmrm.flows")

Made = list[tuple[AnyJob, Manifest]]
Told = Callable[[AnyJob, Manifest], None]


class WorkLeftError(Exception):
    """A job is not committed, in a run that was only to be looked up; `stage` is the job's."""

    def __init__(self, stage: Stage[Any]) -> None:
        super().__init__(f"{stage.name} has jobs that are not committed")
        self.stage = stage


class Observer(Protocol):
    """Is told of each job whether it is reused or has to be done."""

    def on_reused(self, stage: Stage[Any], job: Job) -> None:
        """Take note of a job that is committed and whole."""

    def on_missing(self, stage: Stage[Any], job: Job) -> None:
        """Take note of a job that is not, before it is done."""


class PrefectObserver:
    """Shows reused jobs in Prefect's interface, and logs why each of the others runs."""

    def __init__(self) -> None:
        self._reasons: dict[str, Reasons] = {}

    def on_reused(self, stage: Stage[Any], job: Job) -> None:
        stage.reuse(job)

    def on_missing(self, stage: Stage[Any], job: Job) -> None:
        if stage.name not in self._reasons:
            self._reasons[stage.name] = Reasons(Store.open(job.store), stage.name)
        log.info("%s %s runs: %s", stage.name, job.label, self._reasons[stage.name].explain(job))


class LookupObserver:
    """Lets a run end with `WorkLeftError` at its first job that is not committed."""

    def on_reused(self, stage: Stage[Any], job: Job) -> None:
        """Prefect is not there to be shown anything."""

    def on_missing(self, stage: Stage[Any], job: Job) -> None:  # noqa: ARG002 - the protocol's
        raise WorkLeftError(stage)


class Stages:
    """Runs stages one after the other, those that need a model's device on the workers, the others in this process."""

    def __init__(self, bars: Bars, workers: Workers, observer: Observer) -> None:
        self._bars = bars
        self._workers = workers
        self._observer = observer

    def run(
        self, stage: Stage[AnyJob], jobs: Sequence[AnyJob], *, each: Told[AnyJob] | None = None
    ) -> Made[AnyJob]:
        """Do a stage's jobs that are not committed and return all, in order, each with the manifest of what it made.

        `each` is told of every job as soon as that is there.
        """
        if not jobs:
            return []  # a stage that this spec does not need
        bar = self.start(stage)
        bar.expect(sum(job.rows for job in jobs))
        made, reused = self.do(stage, jobs, bar, each)
        self.finish(stage, bar, jobs=len(jobs), reused=reused)
        return [(job, made[job.key]) for job in jobs]

    @contextmanager
    def beside(self, stage: Stage[AnyJob]) -> Iterator[Beside[AnyJob]]:
        """Do a stage's jobs in a thread beside the body, as they come."""
        with ThreadPoolExecutor(1, thread_name_prefix=f"cmrm-{stage.name}") as thread:
            beside = Beside(stage, self, thread)
            try:
                yield beside
            except BaseException:
                thread.shutdown(wait=True, cancel_futures=True)
                raise

    def start(self, stage: Stage[Any]) -> Bar:
        """Draw the bar of a stage."""
        return self._bars.start(stage.name)

    def finish(self, stage: Stage[Any], bar: Bar, *, jobs: int, reused: int) -> None:
        """Let the bar of a stage be full, and the log say what was reused."""
        self._bars.finish(stage.name, bar, jobs=jobs, reused=reused)
        log.info("%s is done: of %d jobs %d were reused as they are", stage.name, jobs, reused)

    def do(
        self, stage: Stage[AnyJob], jobs: Sequence[AnyJob], bar: Bar, each: Told[AnyJob] | None
    ) -> tuple[dict[str, Manifest], int]:
        """Do jobs under a bar; what each made, by key, and how many were reused. `each` is told of them."""
        if not jobs:
            return {}, 0
        made: dict[str, Manifest] = {}
        reused: dict[str, Manifest] = {}
        wanted = {job.key: job for job in jobs}

        def tell(job: AnyJob, manifest: Manifest, among: dict[str, Manifest]) -> None:
            among[job.key] = manifest
            if each is not None:
                each(job, manifest)

        def missing() -> Iterator[Job]:
            # Looked for one unit at a time: the workers need not wait until all that is there is verified.
            for unit in stage.join(list(wanted.values())):
                members = [wanted[member.key] for member in unit.members()]
                found = {job.key: manifest for job in members if (manifest := self._reuse(stage, job, bar))}
                for key, manifest in found.items():
                    tell(wanted[key], manifest, reused)
                yield from stage.join([job for job in members if job.key not in found])

        workers = Here() if stage.place == "processor" else self._workers
        # Closed at once, whatever went wrong here: the workers are told to stop before anyone waits for them.
        with closing(workers.do(stage, missing(), advance=bar.advance)) as finished:
            for unit in finished:
                for job in unit.members():
                    manifest = expect_manifest(Store.open(job.store), job.stage, job.key)
                    tell(wanted[job.key], manifest, made)
        return made | reused, len(reused)

    def _reuse(self, stage: Stage[AnyJob], job: AnyJob, bar: Bar) -> Manifest | None:
        """What a job has made, if that is committed and whole."""
        found = stage.find(job)
        if found is None:
            self._observer.on_missing(stage, job)
        else:
            self._observer.on_reused(stage, job)
            bar.advance(job.rows)
        return found


class Beside(Generic[AnyJob]):
    """A stage whose jobs come while another stage runs, and are done in a thread of their own."""

    def __init__(self, stage: Stage[AnyJob], stages: Stages, thread: ThreadPoolExecutor) -> None:
        self._stage = stage
        self._stages = stages
        self._thread = thread
        self._bar: Bar | None = None
        self._added: dict[str, Future[tuple[Made[AnyJob], int]]] = {}

    def add(self, name: str, plan: Callable[[], Sequence[AnyJob]]) -> None:
        """Plan some more jobs under a name and do them, in the thread; raises what earlier ones raised."""
        for earlier in self._added.values():
            if earlier.done():
                earlier.result()
        if name not in self._added:
            self._added[name] = self._thread.submit(copy_context().run, self._do, plan)

    def finish(self, names: Sequence[str]) -> Made[AnyJob]:
        """Wait for all jobs and return them, in the order of these names."""
        done = {name: future.result() for name, future in self._added.items()}
        if self._bar is not None:
            jobs = sum(len(made) for made, _ in done.values())
            reused = sum(count for _, count in done.values())
            self._stages.finish(self._stage, self._bar, jobs=jobs, reused=reused)
        return [one for name in dict.fromkeys(names) for one in done[name][0]]

    def _do(self, plan: Callable[[], Sequence[AnyJob]]) -> tuple[Made[AnyJob], int]:
        jobs = plan()
        if not jobs:
            return [], 0
        self._bar = self._bar or self._stages.start(self._stage)
        self._bar.expect(sum(job.rows for job in jobs))
        made, reused = self._stages.do(self._stage, jobs, self._bar, None)
        return [(job, made[job.key]) for job in jobs], reused


@contextmanager
def run_stages(workers: Workers) -> Iterator[Stages]:
    """Run stages in the body, inside a Prefect flow, under bars, on the workers, which are released in the end."""
    from flows.server.progress import StageArtifact

    with draw_bars(StageArtifact) as bars, workers:
        yield Stages(bars, workers, PrefectObserver())


@contextmanager
def look_up_stages() -> Iterator[Stages]:
    """Look stages up in the body, without Prefect: `WorkLeftError` at the first job that is not committed."""
    with draw_tentative_bars() as bars:
        yield Stages(bars, Here(), LookupObserver())
