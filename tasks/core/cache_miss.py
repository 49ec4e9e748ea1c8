"""Explain a cache miss: the fields in which a job's key content differs from the nearest committed manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from itertools import islice

from storage.maintenance.diff import flatten
from storage.records.hashing import canonical_json
from storage.store import Store
from tasks.core.stage import Job

# At most this many fields are named in a log line; a job that differs in more counts as unrelated.
MOST_FIELDS = 4
# Fields that an installed package determines and not the user: the log shows their values, under these names.
SOFTWARE_FIELDS = {"image_backend": "image backend", "judge.image_backend": "image backend"}
# At most this many manifests are searched for the nearest.
MOST_MANIFESTS = 500

Fields = Mapping[str, bytes]


class Reasons:
    """Explains the cache misses of one stage against the manifests in the store when the first was explained."""

    def __init__(self, store: Store, stage: str) -> None:
        self._store = store
        self._stage = stage

    def explain(self, job: Job) -> str:
        """Say in a few words why no committed result can be reused for a job."""
        if self._store.look_up(self._stage, job.key) is not None:
            return "what was committed is damaged or not all there"
        if not self._committed:
            return "nothing of this stage is committed yet"
        wanted = _describe(job)
        differ, nearest = min(
            ((_differ(wanted, one), one) for one in self._committed), key=lambda one: len(one[0])
        )
        if len(differ) > MOST_FIELDS:
            return "nothing like it is committed yet"
        said = [
            _describe_change(path, nearest.get(path), wanted.get(path))
            for path in differ
            if path in SOFTWARE_FIELDS
        ]
        if others := [path for path in differ if path not in SOFTWARE_FIELDS]:
            said.append(f"new in {', '.join(others)}")
        return ", ".join(said)

    @cached_property
    def _committed(self) -> list[Fields]:
        manifests = islice(self._store.manifests(self._stage), MOST_MANIFESTS)
        return [_to_fields(manifest.content) for manifest in manifests]


def _describe(job: Job) -> Fields:
    return _to_fields(job.content())


def _to_fields(content: Mapping[str, object]) -> Fields:
    return {path: canonical_json(value) for path, value in flatten(content)}


def _describe_change(path: str, before: bytes | None, after: bytes | None) -> str:
    """Describe a field's old and new value; earlier releases recorded none."""
    old, new = ("none recorded" if one is None else str(json.loads(one)) for one in (before, after))
    return f"{SOFTWARE_FIELDS[path]} {old} → {new}"


def _differ(first: Fields, second: Fields) -> list[str]:
    return [path for path in dict.fromkeys((*first, *second)) if first.get(path) != second.get(path)]
