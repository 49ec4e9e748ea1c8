"""Run the stages of a run: reuse committed jobs, give the others to the workers, show progress and log cache misses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from contextvars import copy_context
from itertools import takewhile
from typing import Any, Generic, Protocol

from flows.server.monitor import Monitor, NoServer, monitor_in_force
from flows.terminal.progress import Bar, Bars, draw_bars, draw_tentative_bars
from flows.workers.base import InProcessWorkers, Workers
from storage.records.manifest import Manifest
from storage.shards.rows import expect_manifest
from storage.store import Store
from tasks.core.cache_miss import Reasons
from tasks.core.call_thread import CallThread, calling_in
from tasks.core.daemon_thread import DaemonThread
from tasks.core.signals import deferring_signals
from tasks.core.stage import AnyJob, Job, Stage

log = logging.getLogger("cmrm.flows")

# Seconds that an interrupted run waits for the background stage to flush finished rows.
FLUSH_SECONDS = 1.0

Made = list[tuple[AnyJob, Manifest]]
OnDone = Callable[[AnyJob, Manifest], None]


class WorkLeftError(Exception):
    """A look-up found a job of `stage` that is not committed."""

    def __init__(self, stage: Stage[Any]) -> None:
        super().__init__(f"{stage.name} has jobs that are not committed")
        self.stage = stage


class Observer(Protocol):
    """Notified for each job whether it is reused or missing."""

    def on_reused(self, stage: Stage[Any], job: Job) -> None:
        """Called for a job that is committed and verifies."""

    def on_missing(self, stage: Stage[Any], job: Job) -> None:
        """Called for a job that is not committed, before it runs."""


class PrefectObserver:
    """Shows reused jobs in Prefect's UI, and logs the cause of each cache miss."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._reasons: dict[str, Reasons] = {}

    def on_reused(self, stage: Stage[Any], job: Job) -> None:
        stage.reuse(job)

    def on_missing(self, stage: Stage[Any], job: Job) -> None:
        if stage.name not in self._reasons:
            self._reasons[stage.name] = Reasons(self._store, stage.name)
        log.info("%s %s runs: %s", stage.name, job.label, self._reasons[stage.name].explain(job))


class LookupObserver:
    """Raises `WorkLeftError` at the first job that is not committed."""

    def on_reused(self, stage: Stage[Any], job: Job) -> None:
        """Do nothing: Prefect is not imported."""

    def on_missing(self, stage: Stage[Any], job: Job) -> None:  # noqa: ARG002 - the protocol's
        raise WorkLeftError(stage)


class Stages:
    """Runs stages one after the other: those that need a device on the workers, the others in this process.

    All jobs are of one `store`.
    """

    def __init__(
        self, store: Store, bars: Bars, workers: Workers, observer: Observer, monitor: Monitor | None = None
    ) -> None:
        self._store = store
        self._bars = bars
        self._workers = workers
        self._observer = observer
        self._monitor = monitor or NoServer()

    def run(
        self, stage: Stage[AnyJob], jobs: Sequence[AnyJob], *, each: OnDone[AnyJob] | None = None
    ) -> Made[AnyJob]:
        """Run a stage's missing jobs and return all jobs, in order, each with its manifest.

        `each` is called for every job as soon as its manifest is committed.
        """
        if not jobs:
            return []  # a stage that this spec does not need
        bar = self.start(stage)
        bar.expect(sum(job.rows for job in jobs))
        made, reused = self.do(stage, jobs, bar, each)
        self.finish(stage, bar, jobs=len(jobs), reused=reused)
        return [(job, made[job.key]) for job in jobs]

    @contextmanager
    def run_in_background(self, stage: Stage[AnyJob]) -> Iterator[BackgroundStage[AnyJob]]:
        """Run a stage's jobs in a background thread while the body adds them.

        If the body raises, the running job flushes finished rows and stops, even inside a blocking call. After a
        signal, wait at most `FLUSH_SECONDS` for that.
        """
        background = BackgroundStage(stage, self)
        try:
            yield background
        except Exception:
            background.stop()
            background.wait()
            raise
        finally:
            with deferring_signals():
                background.stop()
                background.wait(FLUSH_SECONDS)

    def start(self, stage: Stage[Any]) -> Bar:
        """Start the progress bar of a stage."""
        return self._bars.start(stage.name)

    def finish(self, stage: Stage[Any], bar: Bar, *, jobs: int, reused: int) -> None:
        """Fill the progress bar of a stage, and log how many jobs were reused."""
        self._bars.finish(stage.name, bar, jobs=jobs, reused=reused)
        log.info("%s is done: of %d jobs %d were reused", stage.name, jobs, reused)

    def do(
        self, stage: Stage[AnyJob], jobs: Sequence[AnyJob], bar: Bar, each: OnDone[AnyJob] | None
    ) -> tuple[dict[str, Manifest], int]:
        """Run jobs under a progress bar; returns their manifests by key, and how many were reused."""
        if not jobs:
            return {}, 0
        made: dict[str, Manifest] = {}
        reused: dict[str, Manifest] = {}
        wanted = {job.key: job for job in jobs}

        def on_done(job: AnyJob, manifest: Manifest, manifests: dict[str, Manifest]) -> None:
            manifests[job.key] = manifest
            if each is not None:
                each(job, manifest)

        def missing() -> Iterator[Job]:
            # One job group at a time, so that workers start before every committed job is verified.
            # Once the server is lost no more jobs are submitted; those in flight are committed.
            for job_group in takewhile(
                lambda _: not self._monitor.is_lost, stage.join(list(wanted.values()))
            ):
                members = [wanted[member.key] for member in job_group.members()]
                found = {job.key: manifest for job in members if (manifest := self._reuse(stage, job, bar))}
                for key, manifest in found.items():
                    on_done(wanted[key], manifest, reused)
                yield from stage.join([job for job in members if job.key not in found])

        workers = InProcessWorkers() if stage.place == "processor" else self._workers
        # Closed even on errors: the workers must be signalled to stop before anything joins them.
        with (
            self._monitor.jobs_in_flight() as in_flight,
            closing(workers.do(stage, in_flight.take(missing()), advance=bar.advance)) as finished,
        ):
            for job_group in finished:
                in_flight.finish()
                for job in job_group.members():
                    manifest = expect_manifest(self._store, job.stage, job.key)
                    on_done(wanted[job.key], manifest, made)
        self._monitor.check()
        return made | reused, len(reused)

    def _reuse(self, stage: Stage[AnyJob], job: AnyJob, bar: Bar) -> Manifest | None:
        """Return a job's manifest if it is committed and verifies."""
        found = self._store.find(job.stage, job.key)
        if found is None:
            self._observer.on_missing(stage, job)
        else:
            self._observer.on_reused(stage, job)
            bar.advance(job.rows)
        return found


class BackgroundStage(Generic[AnyJob]):
    """A stage that runs in a background thread, on jobs that another stage adds while it runs.

    Calls that may hang, such as a judge's, run in a second thread, which writes nothing and can be abandoned.
    """

    def __init__(self, stage: Stage[AnyJob], stages: Stages) -> None:
        self._stage = stage
        self._stages = stages
        self._thread = DaemonThread(f"cmrm-{stage.name}")
        self._calls = CallThread(f"cmrm-{stage.name}-calls")
        self._bar: Bar | None = None
        self._added: dict[str, Future[tuple[Made[AnyJob], int]]] = {}

    def add(self, name: str, plan: Callable[[], Sequence[AnyJob]]) -> None:
        """Plan more jobs under a name and run them in the thread; raises the error of an earlier job."""
        for earlier in self._added.values():
            if earlier.done():
                earlier.result()
        if name not in self._added:
            context = copy_context()
            self._added[name] = self._thread.submit(lambda: context.run(self._do, plan))

    def finish(self, names: Sequence[str]) -> Made[AnyJob]:
        """Wait for all jobs and return them in the order of `names`."""
        done = {name: future.result() for name, future in self._added.items()}
        if self._bar is not None:
            jobs = sum(len(made) for made, _ in done.values())
            reused = sum(count for _, count in done.values())
            self._stages.finish(self._stage, self._bar, jobs=jobs, reused=reused)
        return [one for name in dict.fromkeys(names) for one in done[name][0]]

    def stop(self) -> None:
        """Make the running job flush and raise, and start no other; may be called twice."""
        self._calls.stop()
        self._thread.stop()

    def wait(self, seconds: float | None = None) -> None:
        """Wait until the stopped threads have ended, at most `seconds`."""
        if not self._thread.join(seconds):
            log.warning("%s was abandoned before it had flushed all finished rows", self._stage.name)

    def _do(self, plan: Callable[[], Sequence[AnyJob]]) -> tuple[Made[AnyJob], int]:
        jobs = plan()
        if not jobs:
            return [], 0
        self._bar = self._bar or self._stages.start(self._stage)
        self._bar.expect(sum(job.rows for job in jobs))
        with calling_in(self._calls):
            made, reused = self._stages.do(self._stage, jobs, self._bar, None)
        return [(job, made[job.key]) for job in jobs], reused


@contextmanager
def run_stages(workers: Workers, store: Store) -> Iterator[Stages]:
    """Run stages in the body, inside a Prefect flow, with progress bars, on the workers, which are released at exit."""
    from flows.server.progress import StageArtifact

    with draw_bars(StageArtifact) as bars, workers:
        yield Stages(store, bars, workers, PrefectObserver(store), monitor_in_force.get())


@contextmanager
def look_up_stages(store: Store) -> Iterator[Stages]:
    """Look up stages in the body, without Prefect: `WorkLeftError` at the first job that is not committed."""
    with draw_tentative_bars() as bars:
        yield Stages(store, bars, InProcessWorkers(), LookupObserver())
