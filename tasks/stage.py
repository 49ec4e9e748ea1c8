"""What every stage shares: jobs with keys, reuse of what is committed, and the Prefect task around it."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from prefect import Task, task
from pydantic import ValidationError

from storage.errors import PartsGoneError
from storage.identity import stage_key
from storage.manifest import Manifest
from storage.store import Store
from tasks.progress import report_rows

log = logging.getLogger("cmrm.tasks")


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One unit of cached work: a stage on one shard. Small enough to travel to another process.

    Subclasses add where the job finds its input and how it works; only what `content` returns goes into the key.
    """

    store: str
    label: str
    rows: int

    @property
    @abstractmethod
    def stage(self) -> str:
        """The stage's name, one lower-case word."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """All that determines what the job makes, as JSON types."""

    @cached_property
    def key(self) -> str:
        """The name of what the job makes: sha256 of the canonical content, 64 hex digits."""
        return stage_key(self.stage, self.content())


AnyJob = TypeVar("AnyJob", bound=Job)
Work = Callable[[AnyJob, Store], Manifest]


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[AnyJob]):
    """A stage: its name and the Prefect task that does one job of it."""

    name: str
    task: Task[[AnyJob], dict[str, Any]]

    def run(self, jobs: Sequence[AnyJob]) -> list[Manifest]:
        """Do each job that is not committed yet, in order, and return all manifests."""
        return [self._run_one(job) for job in jobs]

    def _run_one(self, job: AnyJob) -> Manifest:
        store = Store.open(job.store)
        committed = store.find(job.stage, job.key)
        # Prefect looks for its own record only; whether the files it names are whole is known here.
        try:
            record = self.task.with_options(refresh_cache=committed is None)(job)
        except (json.JSONDecodeError, ValidationError):
            if committed is None:
                raise  # the job's own: nothing of Prefect's was read
            # Prefect does not put its records in place at once: another process is writing this one, or died doing so.
            log.warning(
                "%s %s: Prefect's record of it is cut short and is written again", job.stage, job.label
            )
            record = self.task.with_options(refresh_cache=True)(job)
        if committed is not None:
            report_rows(job.rows)
            return committed
        return Manifest.from_json(record["manifest"].encode())


def make_stage(name: str, work: Work[AnyJob]) -> Stage[AnyJob]:
    """Make a stage of a function that does one job and commits it.

    The task's cache key is the job's key and its persisted result the manifest, so Prefect shows what was reused.
    """

    def do(job: AnyJob) -> dict[str, Any]:
        store = Store.open(job.store)
        manifest = store.find(job.stage, job.key)
        if manifest is None:
            started = time.monotonic()
            try:
                manifest = work(job, store)
            except PartsGoneError:
                # Another worker was quicker with the same job; what it committed is this job's result.
                manifest = store.find(job.stage, job.key) or work(job, store)
            log.info("%s %s: %d rows in %.1f s", name, job.label, job.rows, time.monotonic() - started)
        else:
            log.info("%s %s: reused %s", name, job.label, job.key[:12])
        return {"manifest": manifest.to_json().decode()}

    make_task = task(
        name=name,
        task_run_name=f"{name} {{job.label}}",
        cache_key_fn=lambda _context, parameters: parameters["job"].key,
        persist_result=True,
        result_serializer="json",
    )
    return Stage(name=name, task=make_task(do))
