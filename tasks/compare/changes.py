"""Changes between two runs' verdicts: paired rates and scores, and the samples whose verdict flipped."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from cmrm.statistics.paired_tests import Comparison, adjust, compare_scores, compare_verdicts
from tasks.compare.run_pairs import REASONS, RunPairs
from tasks.report.outcomes import Arm, Column, keep_pairs
from tasks.report.table import name_arm, sort_arms

# Names of a sample that a rate does not count, and of one that it counts.
SIDES: Mapping[str, tuple[str, str]] = {"unsafe": ("safe", "unsafe"), "over_refusal": ("answered", "refused")}


@dataclass(frozen=True, kw_only=True)
class Change:
    """One measure of one arm, before and after, on the paired samples; `arm.model` is a label."""

    arm: Arm
    column: Column
    change: Comparison

    @property
    def name(self) -> str:
        """The arm's name in tables."""
        return name_arm(self.arm)

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **self.arm._asdict(),
            "name": self.name,
            "measure": self.column.kind,
            "dataset": self.column.dataset,
            "judge": self.column.judge,
            **self.change.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Change:
        """Restore a change from `to_json`."""
        fields = Comparison.__dataclass_fields__
        return cls(
            arm=Arm(**{name: content[name] for name in Arm._fields}),
            column=Column(kind=content["measure"], judge=content["judge"], dataset=content["dataset"]),
            change=Comparison.from_json({name: content[name] for name in fields}),
        )


@dataclass(frozen=True, kw_only=True)
class Flip:
    """One sample whose verdict flipped: safe or unsafe, answered or refused."""

    arm: Arm
    judge: str
    dataset: str
    sample_id: str
    before: str
    after: str

    def to_json(self) -> dict[str, Any]:
        """As JSON types: a row of a table."""
        return {**self.arm._asdict(), "name": name_arm(self.arm), **_without_arm(asdict(self))}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Flip:
        """Restore a flip from `to_json`."""
        names = ("judge", "dataset", "sample_id", "before", "after")
        arm = Arm(**{name: content[name] for name in Arm._fields})
        return cls(arm=arm, **{name: content[name] for name in names})


@dataclass(frozen=True, kw_only=True)
class Unpaired:
    """Counts of one arm's answers judged in either run that have no counterpart, by reason."""

    arm: Arm
    judge: str
    counts: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {**self.arm._asdict(), "name": name_arm(self.arm), "judge": self.judge, **self.counts}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Unpaired:
        """Restore the counts from `to_json`."""
        arm = Arm(**{name: content[name] for name in Arm._fields})
        return cls(arm=arm, judge=content["judge"], counts={name: content[name] for name in REASONS})


def compare_pairs(pairs: RunPairs, *, interventions: Sequence[str]) -> list[Change]:
    """Compare every measure of every arm that both runs have; p corrected by Holm over all of them.

    A measure that either run has, without a sample in both, is included with n = 0.
    """
    found = [
        Change(arm=arm, column=column, change=change)
        for arm in sort_arms(pairs.arms(), interventions)
        for column in pairs.columns()
        if (change := _compare(pairs, arm, column)) is not None
    ]
    corrected = adjust([one.change for one in found])
    return [replace(one, change=change) for one, change in zip(found, corrected, strict=True)]


def find_flips(pairs: RunPairs, changes: Sequence[Change]) -> list[Flip]:
    """Find every sample that flipped between safe and unsafe, or answered and refused, in the order of changes."""
    return [flip for one in changes for flip in _find_flips(pairs, one)]


def count_unpaired(pairs: RunPairs, *, interventions: Sequence[str]) -> list[Unpaired]:
    """Count the answers that could not be paired, by arm and judge, without zero counts."""
    counted = [
        Unpaired(arm=arm, judge=judge, counts=pairs.count_unpaired(arm, judge))
        for arm in sort_arms(pairs.arms(), interventions)
        for judge in pairs.judges()
    ]
    return [one for one in counted if any(one.counts.values())]


def _compare(pairs: RunPairs, arm: Arm, column: Column) -> Comparison | None:
    if not any((arm, column) in side.outcomes.values for side in (pairs.before, pairs.after)):
        return None
    before, after = keep_pairs(*pairs.get(arm, column))
    if column.kind == "score":
        return compare_scores(before, after)
    return compare_verdicts([one > 0 for one in before], [one > 0 for one in after])


def _find_flips(pairs: RunPairs, one: Change) -> Iterator[Flip]:
    sides = SIDES.get(one.column.kind)
    if sides is None:
        return
    before, after = pairs.get(one.arm, one.column)
    for place in np.flatnonzero(~np.isnan(before) & (before != after)):
        dataset, sample_id = pairs.places[place]
        yield Flip(
            arm=one.arm,
            judge=one.column.judge,
            dataset=dataset,
            sample_id=sample_id,
            before=sides[int(before[place])],
            after=sides[int(after[place])],
        )


def _without_arm(record: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != "arm"}
