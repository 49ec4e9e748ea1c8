"""The main table: a block of rows per model, one row per arm, each compared with its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

from cmrm.prompts.conditions import CONDITIONS
from cmrm.statistics.paired_tests import Comparison, adjust, compare_scores, compare_verdicts
from cmrm.statistics.rates import Mean, Rate
from tasks.report.model_names import shorten_model
from tasks.report.outcomes import Arm, Column, Outcomes, keep_measured, keep_pairs, name_intervention

CONDITION_NAMES = {
    "query": "Query",
    "caption": "Caption",
    "image": "Image",
    "blank": "Blank image",
    "blank-black": "Black image",
    "blank-mean": "Mean-colour image",
    "noise": "Noise image",
    "noise-gaussian": "Gaussian noise",
    "gap": "Gap alone",
    "marks": "Gap with marks",
    "filler": "Filler text",
}

# Text-only models by name, each with the model that it stands beside.
NO_BACKBONES: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure: a rate, or a mean for scores, and its change from the row's baseline; None without a baseline.

    `unmeasured` says why there is no figure although answers were judged, '' otherwise.
    """

    value: Rate | Mean
    change: Comparison | None = None
    unmeasured: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON types, complete."""
        return {
            "value": asdict(self.value),
            "change": self.change and self.change.to_json(),
            "unmeasured": self.unmeasured or None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cell:
        """Restore a cell from `to_json`."""
        kind = Rate if "successes" in content["value"] else Mean
        change = content["change"]
        return cls(
            value=kind(**content["value"]),
            change=change and Comparison.from_json(change),
            # Tables of earlier releases lack it.
            unmeasured=content.get("unmeasured") or "",
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One arm: its settings, one cell per column, and the counts that are in no cell.

    `baseline` is the name of the row that its changes are from, '' for none; `settings` are the intervention's.
    """

    arm: Arm
    name: str
    baseline: str
    settings: Mapping[str, str]
    cells: tuple[Cell, ...]
    parse_errors: int
    quarantined: int

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **self.arm._asdict(),
            "name": self.name,
            "baseline": self.baseline,
            "settings": dict(self.settings),
            "cells": [cell.to_json() for cell in self.cells],
            "parse_errors": self.parse_errors,
            "quarantined": self.quarantined,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Row:
        """Restore a row from `to_json`."""
        return cls(
            arm=Arm(**{name: content[name] for name in Arm._fields}),
            cells=tuple(map(Cell.from_json, content["cells"])),
            **{
                name: content[name]
                for name in ("name", "baseline", "settings", "parse_errors", "quarantined")
            },
        )


@dataclass(frozen=True, kw_only=True)
class Table:
    """The main table. p values are corrected over all of its comparisons (Holm)."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "rows": [row.to_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Table:
        """Restore a table from `to_json`."""
        return cls(
            columns=tuple(Column(**column) for column in content["columns"]),
            rows=tuple(map(Row.from_json, content["rows"])),
        )

    def models(self) -> list[str]:
        """The models, in the order of their blocks."""
        return list(dict.fromkeys(row.arm.model for row in self.rows))

    def find(self, model: str, condition: str) -> Row | None:
        """Find a model's baseline row under a condition, or None."""
        return next((row for row in self.rows if row.arm == Arm(model, condition)), None)


def make_table(
    outcomes: Outcomes,
    *,
    settings: Mapping[str, Mapping[str, str]],
    quarantined: Mapping[Arm, int],
    backbones: Mapping[str, str] = NO_BACKBONES,
) -> Table:
    """Make the table of all arms; `settings` are those of the interventions by name, in the order of the spec.

    `backbones` maps text-only models to the models that they stand beside, from whose rows their changes are.
    """
    columns = outcomes.columns()
    rows = [
        Row(
            arm=arm,
            name=name_arm(arm),
            baseline=""
            if (baseline := find_baseline(arm, outcomes.arms, backbones)) is None
            else _name_baseline(baseline, arm),
            settings=settings.get(arm.intervention, {}),
            cells=tuple(_fill(outcomes, arm, baseline, column) for column in columns),
            parse_errors=outcomes.parse_errors[arm],
            quarantined=quarantined.get(arm, 0),
        )
        for arm in sort_arms(outcomes.arms, list(settings))
    ]
    return _correct(Table(columns=tuple(columns), rows=tuple(rows)))


def sort_arms(arms: Mapping[Arm, None], interventions: Sequence[str]) -> list[Arm]:
    """Sort arms: models in order, within one the conditions in the paper's order, then the interventions."""
    models = list(dict.fromkeys(arm.model for arm in arms))
    known = {name: place for place, name in enumerate(interventions)}

    def place(arm: Arm) -> tuple[int, int, int]:
        own = known.get(arm.intervention, len(known)) + 1 if arm.intervention else 0
        return models.index(arm.model), own, [*CONDITIONS].index(arm.condition)  # type: ignore[arg-type]

    return sorted(arms, key=place)


def find_baseline(
    arm: Arm, arms: Mapping[Arm, None], backbones: Mapping[str, str] = NO_BACKBONES
) -> Arm | None:
    """Find an arm's baseline: for an intervention the same condition without it, for a condition the query.

    For a text-only model it is the same condition of the model that it stands beside.
    """
    if arm.model in backbones:
        beside = arm._replace(model=backbones[arm.model])
        return beside if beside in arms else None
    against = Arm(arm.model, arm.condition if arm.intervention else "query")
    return against if against in arms and against != arm else None


def name_arm(arm: Arm) -> str:
    """Name an arm for tables: an intervention with its condition, unless that is the sample's own image."""
    if not arm.intervention:
        return CONDITION_NAMES[arm.condition]
    name = name_intervention(arm.intervention, arm.alpha)
    return name if arm.condition == "image" else f"{name}, {CONDITION_NAMES[arm.condition].lower()}"


def _name_baseline(baseline: Arm, arm: Arm) -> str:
    own = name_arm(baseline)
    return own if baseline.model == arm.model else f"{own}, {shorten_model(baseline.model)}"


def _fill(outcomes: Outcomes, arm: Arm, baseline: Arm | None, column: Column) -> Cell:
    own = outcomes.get(arm, column)
    measured = keep_measured(own)
    value = Mean.of(measured) if column.kind == "score" else Rate.of(one > 0 for one in measured)
    unmeasured = outcomes.explain(arm, column)
    if baseline is None:
        return Cell(value=value, unmeasured=unmeasured)
    return Cell(value=value, change=compare_arms(outcomes, baseline, arm, column), unmeasured=unmeasured)


def compare_arms(outcomes: Outcomes, before: Arm, after: Arm, column: Column) -> Comparison:
    """Compare two arms in a column, on the samples that both have a verdict for."""
    old, new = keep_pairs(outcomes.get(before, column), outcomes.get(after, column))
    if column.kind == "score":
        return compare_scores(old, new)
    return compare_verdicts([one > 0 for one in old], [one > 0 for one in new])


def _correct(table: Table) -> Table:
    corrected = iter(adjust([cell.change for row in table.rows for cell in row.cells if cell.change]))

    def correct(cells: Sequence[Cell]) -> Iterator[Cell]:
        for cell in cells:
            yield cell if cell.change is None else replace(cell, change=next(corrected))

    return replace(table, rows=tuple(replace(row, cells=tuple(correct(row.cells))) for row in table.rows))
