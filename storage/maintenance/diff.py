"""Diff two runs: their specs, and the manifests of each stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.maintenance.inventory import Inventory
from storage.records.hashing import canonical_json
from storage.records.manifest import Manifest

LONGEST_VALUE = 60


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field that differs: its path, and its values on each side as JSON, none where it is missing."""

    path: str
    values: tuple[tuple[str, ...], ...]


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
    spec = find_changes([[first.get("spec")], [second.get("spec")]])
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
        changes=find_changes(contents),
    )


def find_changes(sides: Sequence[Sequence[Any]]) -> tuple[Change, ...]:
    """Find the fields of JSON values that are not the same on all sides, in the order in which they first appear."""
    collected = [_collect(contents) for contents in sides]
    paths = dict.fromkeys(path for side in collected for path in side)
    values = {path: [side.get(path, set()) for side in collected] for path in paths}
    return tuple(
        Change(path=path, values=tuple(tuple(sorted(one)) for one in found))
        for path, found in values.items()
        if any(one != found[0] for one in found)
    )


def _collect(contents: Sequence[Any]) -> dict[str, set[str]]:
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


def describe_values(values: Sequence[str], *, longest: int = LONGEST_VALUE) -> str:
    """Describe a field's values in a few words: `nothing` where there is none; of a long one the middle is left out."""
    shown = [_cut(value, longest) for value in values[:3]]
    more = f" and {len(values) - 3} more" if len(values) > 3 else ""
    return ", ".join(shown) + more if shown else "nothing"


def _cut(value: str, longest: int) -> str:
    # Paths differ in their last names, digests in all.
    half = longest // 2
    return value if len(value) <= longest else f"{value[: longest - half - 1]}…{value[-half:]}"
