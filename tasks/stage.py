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

from storage.errors import PartsGoneError
from storage.identity import stage_key
from storage.manifest import Manifest
from storage.store import Store
from tasks.oom import explained_oom
from tasks.stopping import StoppedError, flushed_before_leaving

if TYPE_CHECKING:
    from prefect import Task

log = logging.getLogger("cmrm.tasks")

# Where a stage's jobs run: on the devices that hold models, there one after the other, or on any processor.
Place = Literal["devices", "one device", "processor"]


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

    def members(self) -> Sequence[Job]:
        """The jobs that are committed when this one is done: itself, unless it joins others."""
        return (self,)


AnyJob = TypeVar("AnyJob", bound=Job)
Work = Callable[[AnyJob, Store], Manifest]
# Does and commits the members of one unit of work, in their order.
WorkTogether = Callable[[Sequence[AnyJob], Store], Sequence[Manifest]]
# Makes units of work of some jobs: each is one of them, or joins several.
Join = Callable[[Sequence[AnyJob]], Sequence[Job]]


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[AnyJob]):
    """A stage: its name, where its jobs run, which of them are done together, and the function that does a unit.

    `do` returns what each member of the unit made, as {"manifests": [JSON text]}.
    """

    name: str
    place: Place
    join: Join[AnyJob]
    do: Callable[[Job], dict[str, Any]]

    @cached_property
    def task(self) -> Task[[Job], dict[str, Any]]:
        """The Prefect task around `do`.

        Its cache key is the job's key and its persisted result the manifests, so Prefect shows what was reused.
        """
        # Prefect is imported with the first job that it is to show: a run that is committed shows none.
        from prefect import task

        make_task = task(
            name=self.name,
            task_run_name=f"{self.name} {{job.label}}",
            cache_key_fn=lambda _context, parameters: parameters["job"].key,
            persist_result=True,
            result_serializer="json",
        )
        return make_task(self.do)

    def find(self, job: AnyJob) -> Manifest | None:
        """Find what the job made, if that is committed and whole."""
        return Store.open(job.store).find(job.stage, job.key)

    def is_committed(self, unit: Job) -> bool:
        """Whether all that a unit of work makes is committed and whole."""
        return len(_find_members(unit, Store.open(unit.store))) == len(unit.members())

    def reuse(self, job: AnyJob) -> None:
        """Let Prefect see that the job, which is committed, is reused."""
        from pydantic import ValidationError

        # Prefect looks for its own record only; without one it calls the task, which finds what is committed.
        try:
            self.task(job)
        except (json.JSONDecodeError, ValidationError):
            # Prefect does not put its records in place at once: another process is writing this one, or died doing so.
            log.warning(
                "%s %s: Prefect's record of it is cut short and is written again", job.stage, job.label
            )
            self.fresh(job)

    @property
    def fresh(self) -> Task[[Job], dict[str, Any]]:
        """The task for a job that is not committed: Prefect's own record of it would name files that are gone."""
        return self.task.with_options(refresh_cache=True)

    def run(self, unit: Job) -> list[Manifest]:
        """Do a unit of work that is not committed, in this process; what each of its members made."""
        return [Manifest.from_json(made.encode()) for made in self.fresh(unit)["manifests"]]


def make_stage(name: str, work: Work[AnyJob], *, place: Place) -> Stage[AnyJob]:
    """Make a stage of a function that does one job and commits it.

    What a library raises that is no `Exception` (`sys.exit`) comes out as a `RuntimeError`: a pool of processes would
    wait for ever for a job that ended so.
    """
    return make_joining_stage(
        name, lambda jobs, store: [work(job, store) for job in jobs], join=lambda jobs: jobs, place=place
    )


def make_joining_stage(
    name: str, work: WorkTogether[AnyJob], *, join: Join[AnyJob], place: Place
) -> Stage[AnyJob]:
    """Make a stage of a function that does several jobs in one go, as `join` puts them together.

    Each is committed under its own key; those that are committed already are not done again. Errors as in `make_stage`.
    """

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
    """What is committed of a job's members, by key."""
    found = {member.key: store.find(member.stage, member.key) for member in job.members()}
    return {key: manifest for key, manifest in found.items() if manifest is not None}


def _complete(
    job: Job, store: Store, work: WorkTogether[Any], made: Mapping[str, Manifest]
) -> dict[str, Manifest]:
    """Do the members of a job that are not made yet; what all have made, by key."""
    overtaken = 0
    while missing := [member for member in job.members() if member.key not in made]:
        try:
            more = work(missing, store)
        except PartsGoneError:
            # Another worker was quicker, with one member or, since both commit in the same order, with many in turn;
            # what it committed is this job's result.
            overtaken += 1
            if overtaken > len(job.members()):
                raise
            made = _find_members(job, store)
        else:
            return {**made, **{manifest.key: manifest for manifest in more}}
    return dict(made)
