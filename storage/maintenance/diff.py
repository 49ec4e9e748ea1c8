"""Diff two runs: their specs, and the manifests of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from storage.maintenance.inventory import Inventory
from storage.records.hashing import canonical_json
from storage.records.manifest import Manifest


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field that differs: its path, and its values in each run as JSON, empty where it is missing."""

    path: str
    first: tuple[str, ...]
    second: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class StageDifference:
    """Counts of a stage's manifests used by both runs and by each alone, and the fields in which the latter differ."""

    stage: str
    both: int
    first: int
    second: int
    changes: tuple[Change, ...]


@dataclass(frozen=True, kw_only=True)
class RunDifference:
    """The differences of two runs; `same` means equal specs and the same keys.

    `missing` counts manifests that a run used and that the store no longer has.
    """

    same: bool
    spec: tuple[Change, ...]
    stages: tuple[StageDifference, ...]
    missing: int


def compare_runs(inventory: Inventory, first: Mapping[str, Any], second: Mapping[str, Any]) -> RunDifference:
    """Compare two runs' records, stage by stage in the order of the first."""
    keys = [[str(key) for key in run.get("keys") or ()] for run in (first, second)]
    by_key = {manifest.key: manifest for manifest in inventory.manifests}
    stages = list(dict.fromkeys(by_key[key].stage for key in (*keys[0], *keys[1]) if key in by_key))
    spec = tuple(_changes([first.get("spec")], [second.get("spec")]))
    return RunDifference(
        same=not spec and set(keys[0]) == set(keys[1]),
        spec=spec,
        stages=tuple(
            _compare_stage(
                stage,
                *(
                    [by_key[key] for key in side if key in by_key and by_key[key].stage == stage]
                    for side in keys
                ),
            )
            for stage in stages
        ),
        missing=len({key for side in keys for key in side if key not in by_key}),
    )


def _compare_stage(stage: str, first: list[Manifest], second: list[Manifest]) -> StageDifference:
    shared = {one.key for one in first} & {one.key for one in second}
    alone = [[one for one in side if one.key not in shared] for side in (first, second)]
    contents = [[one.content for one in side] for side in alone]
    return StageDifference(
        stage=stage,
        both=len(shared),
        first=len(alone[0]),
        second=len(alone[1]),
        changes=tuple(_changes(*contents)),
    )


def _changes(first: list[Any], second: list[Any]) -> Iterator[Change]:
    """The fields whose values differ between the two sides."""
    sides = [_collect(contents) for contents in (first, second)]
    for path in dict.fromkeys((*sides[0], *sides[1])):
        values = [sides[0].get(path, set()), sides[1].get(path, set())]
        if values[0] != values[1]:
            yield Change(path=path, first=tuple(sorted(values[0])), second=tuple(sorted(values[1])))


def _collect(contents: list[Any]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for content in contents:
        for path, value in flatten(content, ""):
            found.setdefault(path, set()).add(canonical_json(value).decode())
    return found


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """The fields of a JSON value with their paths; a list of plain values is one field."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flatten(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping) for item in value):
        for place, item in enumerate(value):
            yield from flatten(item, f"{path}.{place}")
    else:
        yield path, value
