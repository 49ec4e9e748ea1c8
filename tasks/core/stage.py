"""What every stage shares: jobs with keys, reuse of what is committed, and the Prefect task around it."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from cmrm.untrusted.redaction import redacting
from storage.errors import PartsGoneError
from storage.records.hashing import stage_key
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.oom import explained_oom
from tasks.core.signals import StoppedError, flushed_before_leaving
from tasks.core.stage_name import StageName

if TYPE_CHECKING:
    from prefect import Task

log = logging.getLogger("cmrm.tasks")

# Where a stage's jobs run: on the devices that hold models, one at a time each, or on any CPU.
Place = Literal["devices", "one device", "processor"]


@dataclass(frozen=True, kw_only=True)
class Job(ABC):
    """One unit of cached work: a stage on one shard. Small enough to be sent to another process.

    Subclasses add the job's input and settings; only what `content` returns is in the key.
    """

    store: str
    label: str
    rows: int

    @property
    @abstractmethod
    def stage(self) -> StageName:
        """The stage's name."""

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """The key content: all that determines the job's output, as JSON types."""

    @cached_property
    def key(self) -> str:
        """The cache key of the job's output: sha256 of the canonical content, 64 hex digits."""
        return stage_key(self.stage, self.content())

    def members(self) -> Sequence[Job]:
        """The jobs that this one commits: itself, or the members of a job group."""
        return (self,)


AnyJob = TypeVar("AnyJob", bound=Job)
Work = Callable[[AnyJob, Store], Manifest]
# Runs and commits the members of one job or job group, in order.
WorkTogether = Callable[[Sequence[AnyJob], Store], Sequence[Manifest]]
# Joins jobs into job groups; a job may stay alone.
Join = Callable[[Sequence[AnyJob]], Sequence[Job]]


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[AnyJob]):
    """A stage: its name, where its jobs run, how they join into job groups, and the function that runs one.

    `do` returns the manifest of each member, as {"manifests": [JSON text]}.
    """

    name: StageName
    place: Place
    join: Join[AnyJob]
    do: Callable[[Job], dict[str, Any]]

    @cached_property
    def task(self) -> Task[[Job], dict[str, Any]]:
        """The Prefect task around `do`.

        Its cache key is the job's key and its persisted result the manifests, so Prefect shows cache hits.
        """
        # Imports Prefect with the first job that it has to show: a fully cached run shows none.
        from prefect import task

        make_task = task(
            name=self.name,
            task_run_name=f"{self.name} {{job.label}}",
            cache_key_fn=lambda _context, parameters: parameters["job"].key,
            persist_result=True,
            result_serializer="json",
        )
        return make_task(self.do)

    def is_committed(self, job: Job) -> bool:
        """Whether every member of a job or job group is committed and its files verify."""
        return len(_find_members(job, Store.open(job.store))) == len(job.members())

    def reuse(self, job: AnyJob) -> None:
        """Show a committed job to Prefect as a cache hit."""
        from pydantic import ValidationError

        # Prefect looks for its own record only; without one it calls the task, which finds the manifest.
        try:
            self.task(job)
        except (json.JSONDecodeError, ValidationError):
            # Prefect does not write its records atomically: another process is writing this one, or died doing so.
            log.warning("%s %s: Prefect's record of it is truncated; writing it again", job.stage, job.label)
            self.fresh(job)

    @property
    def fresh(self) -> Task[[Job], dict[str, Any]]:
        """The task with a refreshed Prefect cache: records of jobs that are not committed name files that are gone."""
        return self.task.with_options(refresh_cache=True)

    def run(self, job: Job) -> list[Manifest]:
        """Run a job or job group that is not committed, in this process; return each member's manifest."""
        return [Manifest.from_json(made.encode()) for made in self.fresh(job)["manifests"]]


def make_stage(name: StageName, work: Work[AnyJob], *, place: Place) -> Stage[AnyJob]:
    """Make a stage from a function that runs one job and commits it.

    `SystemExit` raised by a library comes out as a `RuntimeError`: a process pool would wait for that job forever.
    """
    return make_joining_stage(
        name, lambda jobs, store: [work(job, store) for job in jobs], join=lambda jobs: jobs, place=place
    )


def make_joining_stage(
    name: StageName, work: WorkTogether[AnyJob], *, join: Join[AnyJob], place: Place
) -> Stage[AnyJob]:
    """Make a stage from a function that runs a job group, as formed by `join`.

    Each member is committed under its own key; members already committed are skipped. Errors as in `make_stage`.
    """

    # What a job raises reaches Prefect's log and database.
    @redacting
    def do(job: Job) -> dict[str, Any]:
        store = Store.open(job.store)
        made = _find_members(job, store)
        if len(made) < len(job.members()):
            started = time.monotonic()
            with flushed_before_leaving(), explained_oom(job):
                try:
                    made = _complete(job, store, work, made)
                except StoppedError:
                    raise
                except SystemExit as error:
                    raise RuntimeError(
                        f"{name} {job.label}: something called sys.exit({error.code})"
                    ) from error
            log.info("%s %s: %d rows in %.1f s", name, job.label, job.rows, time.monotonic() - started)
        else:
            log.info("%s %s: reused %s", name, job.label, job.key[:12])
        return {"manifests": [made[member.key].to_json().decode() for member in job.members()]}

    return Stage(name=name, place=place, join=join, do=do)


def _find_members(job: Job, store: Store) -> dict[str, Manifest]:
    """The manifests of a job's committed members, by key."""
    found = {member.key: store.find(member.stage, member.key) for member in job.members()}
    return {key: manifest for key, manifest in found.items() if manifest is not None}


def _complete(
    job: Job, store: Store, work: WorkTogether[Any], made: Mapping[str, Manifest]
) -> dict[str, Manifest]:
    """Run the members of a job that are not committed; return every member's manifest, by key."""
    overtaken = 0
    while missing := [member for member in job.members() if member.key not in made]:
        try:
            more = work(missing, store)
        except PartsGoneError:
            # Another worker committed one member first or, since both commit in the same order, several in turn;
            # its manifests are this job's result.
            overtaken += 1
            if overtaken > len(job.members()):
                raise
            made = _find_members(job, store)
        else:
            return {**made, **{manifest.key: manifest for manifest in more}}
    return dict(made)
