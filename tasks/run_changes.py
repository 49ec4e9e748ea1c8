"""What changed between two runs' verdicts: rates and scores in pairs, and the samples that changed sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cmrm.comparisons import Comparison, adjust, compare_scores, compare_verdicts
from tasks.outcomes import Column, Way, keep_pairs
from tasks.run_pairs import REASONS, RunPairs
from tasks.table import name_way, sort_ways

# What a sample is called where a rate counts it, and where not.
SIDES: Mapping[str, tuple[str, str]] = {"unsafe": ("safe", "unsafe"), "over_refusal": ("answered", "refused")}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One measure of one way of asking, before and after, on the samples that can be paired; `way.model` is a label."""

    way: Way
    column: Column
    change: Comparison

    @property
    def name(self) -> str:
        """What a table calls the way."""
        return name_way(self.way)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **self.way._asdict(),
            "name": self.name,
            "measure": self.column.kind,
            "dataset": self.column.dataset,
            "judge": self.column.judge,
            **self.change.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Change:
        """The change that `to_json` wrote."""
        fields = Comparison.__dataclass_fields__
        return cls(
            way=Way(**{name: content[name] for name in Way._fields}),
            column=Column(kind=content["measure"], judge=content["judge"], dataset=content["dataset"]),
            change=Comparison.from_json({name: content[name] for name in fields}),
        )


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One sample on which a judge changed sides: safe or unsafe, answered or refused."""

    way: Way
    judge: str
    dataset: str
    sample_id: str
    before: str
    after: str

    def to_json(self) -> dict[str, Any]:
        """As JSON types; a row of a table."""
        return {**self.way._asdict(), "name": name_way(self.way), **_without_way(asdict(self))}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Flip:
        """The flip that `to_json` wrote."""
        names = ("judge", "dataset", "sample_id", "before", "after")
        way = Way(**{name: content[name] for name in Way._fields})
        return cls(way=way, **{name: content[name] for name in names})


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """The answers of one way that a judge saw in either run and that have no counterpart, by reason."""

    way: Way
    judge: str
    counts: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {**self.way._asdict(), "name": name_way(self.way), "judge": self.judge, **self.counts}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Unpaired:
        """What `to_json` wrote."""
        way = Way(**{name: content[name] for name in Way._fields})
        return cls(way=way, judge=content["judge"], counts={name: content[name] for name in REASONS})


def compare_pairs(pairs: RunPairs, *, interventions: Sequence[str]) -> list[Change]:
    """Compare every measure of every way that both runs have; p corrected by Holm over all of them.

    A measure that either run has and that no sample has in both is there with n = 0.
    """
    found = [
        Change(way=way, column=column, change=change)
        for way in sort_ways(pairs.ways(), interventions)
        for column in pairs.columns()
        if (change := _compare(pairs, way, column)) is not None
    ]
    corrected = adjust([one.change for one in found])
    return [replace(one, change=change) for one, change in zip(found, corrected, strict=True)]


def find_flips(pairs: RunPairs, changes: Sequence[Change]) -> list[Flip]:
    """Every sample that went from safe to unsafe or back, from answered to refused or back, in the order of changes."""
    return [flip for one in changes for flip in _find_flips(pairs, one)]


def count_unpaired(pairs: RunPairs, *, interventions: Sequence[str]) -> list[Unpaired]:
    """What could not be paired, by way and judge; those that lack nothing are left out."""
    counted = [
        Unpaired(way=way, judge=judge, counts=pairs.count_unpaired(way, judge))
        for way in sort_ways(pairs.ways(), interventions)
        for judge in pairs.judges()
    ]
    return [one for one in counted if any(one.counts.values())]


def _compare(pairs: RunPairs, way: Way, column: Column) -> Comparison | None:
    if not any((way, column) in side.outcomes.values for side in (pairs.before, pairs.after)):
        return None
    before, after = keep_pairs(*pairs.get(way, column))
    if column.kind == "score":
        return compare_scores(before, after)
    return compare_verdicts([one > 0 for one in before], [one > 0 for one in after])


def _find_flips(pairs: RunPairs, one: Change) -> Iterator[Flip]:
    sides = SIDES.get(one.column.kind)
    if sides is None:
        return
    before, after = pairs.get(one.way, one.column)
    for place in np.flatnonzero(~np.isnan(before) & (before != after)):
        dataset, sample_id = pairs.places[place]
        yield Flip(
            way=one.way,
            judge=one.column.judge,
            dataset=dataset,
            sample_id=sample_id,
            before=sides[int(before[place])],
            after=sides[int(after[place])],
        )


def _without_way(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "way"}
