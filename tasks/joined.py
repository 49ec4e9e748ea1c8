"""Ways of answering one slice, joined into one unit of work: they share the slice's images, prompts and prefill."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from tasks.generate_job import GenerateJob
from tasks.stage import Job

# Ways that are answered at once: each has a place in every row under way, and a writer of its own.
MOST_WAYS = 32


@dataclass(frozen=True, kw_only=True)
class JoinedJob(Job):
    """Several ways of answering one slice; each is committed under its own key, and nothing under this one's."""

    jobs: tuple[GenerateJob, ...]

    @property
    def stage(self) -> str:
        return "generate"

    def content(self) -> dict[str, Any]:
        return {"joined": [job.key for job in self.jobs]}

    def members(self) -> Sequence[Job]:
        return self.jobs


def join_ways(jobs: Sequence[GenerateJob]) -> list[Job]:
    """Join jobs that differ in their intervention alone, at most `MOST_WAYS` in one, in the order of the first of each.

    Where there are more, they are cut into parts of about one size.
    """
    alike: dict[GenerateJob, list[GenerateJob]] = {}
    for job in jobs:
        alike.setdefault(replace(job, steering=None, label=""), []).append(job)
    return [join(part) for ways in alike.values() for part in _cut(ways)]


def join(jobs: Sequence[GenerateJob]) -> Job:
    """One unit of work of ways of one slice; a way that is alone is the job that it was."""
    if len(jobs) == 1:
        return jobs[0]
    first = jobs[0]
    return JoinedJob(
        store=first.store,
        label=f"{first.slice.label}, {len(jobs)} ways",
        rows=sum(job.rows for job in jobs),
        jobs=tuple(jobs),
    )


def _cut(ways: Sequence[GenerateJob]) -> Iterator[Sequence[GenerateJob]]:
    parts = -(-len(ways) // MOST_WAYS)
    bounds = [len(ways) * number // parts for number in range(parts + 1)]
    for start, stop in pairwise(bounds):
        yield ways[start:stop]
