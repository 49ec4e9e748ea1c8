"""Why a job runs: in what it differs from the nearest of what is committed already."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from itertools import islice

from storage.difference import flatten
from storage.identity import canonical_json
from storage.store import Store
from tasks.stage import Job

# Fields that one line of a log names; a job that differs in more is another job.
MOST_FIELDS = 4
# Manifests among which the nearest is looked for.
MOST_MANIFESTS = 500

Fields = Mapping[str, bytes]


class Reasons:
    """Explains the missing jobs of one stage, by what the store held when the first of them was asked about."""

    def __init__(self, store: Store, stage: str) -> None:
        self._store = store
        self._stage = stage

    def explain(self, job: Job) -> str:
        """Say in a few words why nothing that is committed can be reused for a job."""
        if self._store.look_up(self._stage, job.key) is not None:
            return "what was committed is damaged or not all there"
        if not self._committed:
            return "nothing of this stage is committed yet"
        wanted = _describe(job)
        nearest = min((_differ(wanted, other) for other in self._committed), key=len)
        if len(nearest) > MOST_FIELDS:
            return "nothing like it is committed yet"
        return f"new in {', '.join(nearest)}"

    @cached_property
    def _committed(self) -> list[Fields]:
        manifests = islice(self._store.manifests(self._stage), MOST_MANIFESTS)
        return [_to_fields(manifest.content) for manifest in manifests]


def _describe(job: Job) -> Fields:
    return _to_fields(job.content())


def _to_fields(content: Mapping[str, object]) -> Fields:
    return {path: canonical_json(value) for path, value in flatten(content)}


def _differ(first: Fields, second: Fields) -> list[str]:
    return [path for path in dict.fromkeys((*first, *second)) if first.get(path) != second.get(path)]
