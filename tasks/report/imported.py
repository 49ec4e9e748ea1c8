"""Arms that other systems answered: what their files held, and how they compare with the run's own arms, in pairs."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from cmrm.statistics.paired_tests import Comparison, adjust
from tasks.report.outcomes import Arm, Outcomes, find_leading
from tasks.report.table import CONDITION_NAMES, Row, Table, compare_arms, name_arm

# Part of the key of reports with such arms: raise it when the same verdicts yield other numbers or another line.
VERSION = 1
SHOWN = {"query": "as text", "image": "with the image"}


@dataclass(frozen=True, kw_only=True)
class ImportedArm:
    """One imported arm: its file's name and digest, and how many of its answers were used.

    `made_by` is what an Inspect log says of its making. `anchors` were given to samples that are never judged, and
    `unknown` to no sample of the run, of which `named` are some.
    """

    name: str
    file: str
    digest: str
    kind: str
    made_by: Mapping[str, str] = field(default_factory=dict)
    answers: int
    used: int
    anchors: int
    unknown: int
    named: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class ImportedChange:
    """One measure of an imported arm against an arm of the run, under one condition, on the samples judged in both.

    `model` is the imported arm. The other arm is `against`, `intervention` at `alpha`, called `name` in tables.
    `change` is from that arm to the imported one, as `Comparison.to_json`.
    """

    model: str
    condition: str
    against: str
    intervention: str
    alpha: float | None
    name: str
    measure: str
    dataset: str
    judge: str
    change: Mapping[str, Any]

    @property
    def comparison(self) -> Comparison:
        """The change, from the arm of the run to the imported one."""
        return Comparison.from_json(self.change)


def leave_out(table: Table, imported: Collection[str]) -> Table:
    """The table of the run's own models alone."""
    return replace(table, rows=tuple(row for row in table.rows if row.arm.model not in imported))


def compare_imported(outcomes: Outcomes, table: Table, imported: Collection[str]) -> list[ImportedChange]:
    """Compare each imported arm with every arm before it that was asked alike, by the first judge of each kind.

    p is corrected over all of these (Holm), and over no other comparison of the report.
    """
    found = [
        (before, after, table.columns[place], change)
        for before, after in _pair_rows(table.rows, imported)
        for place in find_leading(table.columns)
        if (change := compare_arms(outcomes, before.arm, after.arm, table.columns[place])).n
    ]
    corrected = adjust([change for *_, change in found])
    return [
        ImportedChange(
            model=after.arm.model,
            condition=after.arm.condition,
            against=before.arm.model,
            intervention=before.arm.intervention,
            alpha=before.arm.alpha,
            name=name_arm(before.arm),
            measure=column.kind,
            dataset=column.dataset,
            judge=column.judge,
            change=change.to_json(),
        )
        for (before, after, column, _), change in zip(found, corrected, strict=True)
    ]


def sum_up_imported(changes: Sequence[ImportedChange]) -> Iterator[str]:
    """One line for each imported arm, condition and model: unsafe rates of both on the questions that both answered.

    Imported arms are not held against each other here.
    """
    imported = {one.model for one in changes}
    plain = [
        one
        for one in changes
        if one.measure == "unsafe" and not one.intervention and one.against not in imported
    ]
    for model, condition, against in dict.fromkeys((one.model, one.condition, one.against) for one in plain):
        rates = ", ".join(
            f"{one.dataset} {_percent(one.comparison.after)} / {_percent(one.comparison.before)} %"
            for one in plain
            if (one.model, one.condition, one.against) == (model, condition, against)
        )
        shown = SHOWN.get(condition) or CONDITION_NAMES[condition].lower()
        yield f"Unsafe answers of {model}, answered elsewhere / of {against}, {shown}, in pairs: {rates}."


def _pair_rows(rows: Sequence[Row], imported: Collection[str]) -> Iterator[tuple[Row, Row]]:
    for place, after in enumerate(rows):
        if after.arm.model in imported:
            for before in rows[:place]:
                if _is_alike(before.arm, after.arm):
                    yield before, after


def _is_alike(before: Arm, after: Arm) -> bool:
    return before.model != after.model and before.condition == after.condition


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
