"""Job groups: arms of one shard decoded together, sharing its images, prompts and prefill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tasks.core.stage import Job
from tasks.core.stage_name import StageName
from tasks.generate.job import GenerateJob

# Arms per job group: each has a branch in every decoded row, and a writer of its own.
MOST_ARMS = 32


@dataclass(frozen=True, kw_only=True)
class JobGroup(Job):
    """Several arms of one shard; each is committed under its own key, and nothing under the group's."""

    jobs: tuple[GenerateJob, ...]

    @property
    def stage(self) -> StageName:
        return StageName.GENERATE

    def content(self) -> dict[str, Any]:
        return {"joined": [job.key for job in self.jobs]}

    def members(self) -> Sequence[Job]:
        return self.jobs


def group_jobs(jobs: Sequence[GenerateJob]) -> list[Job]:
    """Group jobs that differ in their intervention alone, at most `MOST_ARMS` each, ordered by each group's first job.

    More are split into groups of similar size. Jobs with fixed batches stay alone: which other arms are still missing
    depends on what was finished before.
    """
    if any(job.fixed_batch is not None for job in jobs):
        return list(jobs)
    alike: dict[GenerateJob, list[GenerateJob]] = {}
    for job in jobs:
        alike.setdefault(replace(job, steering=None, label=""), []).append(job)
    return [join(group) for arms in alike.values() for group in _split(arms)]


def join(jobs: Sequence[GenerateJob]) -> Job:
    """Join arms of one shard into a job group; a single job stays as it is."""
    if len(jobs) == 1:
        return jobs[0]
    first = jobs[0]
    return JobGroup(
        store=first.store,
        label=f"{first.slice.label}, {len(jobs)} arms",
        rows=sum(job.rows for job in jobs),
        jobs=tuple(jobs),
    )


def _split(arms: Sequence[GenerateJob]) -> Iterator[Sequence[GenerateJob]]:
    groups = -(-len(arms) // MOST_ARMS)
    bounds = [len(arms) * number // groups for number in range(groups + 1)]
    for start, stop in pairwise(bounds):
        yield arms[start:stop]
