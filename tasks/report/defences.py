"""The table of defences: each arm's rates, what it costs, and how it compares with plain answers and with CMRM."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cmrm.statistics.paired_tests import Comparison, adjust
from cmrm.statistics.pareto import find_undominated
from cmrm.statistics.rates import Mean, Rate
from cmrm.statistics.ratios import Cost
from tasks.report.outcomes import Arm, Column, Outcomes, find_leading, rate_measured
from tasks.report.table import Cell, Row, Table, compare_arms
from tasks.report.tokens import TokenCount

# The kind of an intervention whose settings name none.
CMRM = "cmrm"
UNKNOWN = TokenCount(prompt=None, generated=None)
# Overhead is timed on the samples' own images.
TIMED = "image"


@dataclass(frozen=True, kw_only=True)
class DefenceCell:
    """A rate or mean score, and its change from plain answers and from CMRM under the same condition, or None.

    `unmeasured` says why there is no figure although answers were judged, '' otherwise.
    """

    value: Rate | Mean
    unmeasured: str
    from_plain: Comparison | None
    from_cmrm: Comparison | None

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DefenceCell:
        """Restore a cell from `to_json`."""
        kind = Rate if "successes" in content["value"] else Mean
        changes = {name: content[name] for name in ("from_plain", "from_cmrm")}
        return cls(
            value=kind(**content["value"]),
            unmeasured=content["unmeasured"],
            **{name: one and Comparison.from_json(one) for name, one in changes.items()},
        )


@dataclass(frozen=True, kw_only=True)
class DefenceRow:
    """One arm: plain answers under a condition, or a defence.

    `kind` is '' for plain answers. `plain` and `cmrm` name the rows that its changes are from, '' for none. `unsafe`
    and `over_refusal` are over all data sets, by the first judge; `on_front` says that no arm of the same model is as
    good in both and better in one, among those shown the samples' own images. `tokens` and `prompt_tokens` are the mean
    of those generated and of those read for an answer, over all its generations. `cost` is in seconds over plain;
    `passes` counts the sequences that are decoded for one answer. None is unknown.
    """

    arm: Arm
    name: str
    kind: str
    plain: str
    cmrm: str
    cells: tuple[DefenceCell, ...]
    unsafe: Rate
    over_refusal: Rate
    on_front: bool
    tokens: float | None
    prompt_tokens: float | None
    cost: Cost | None
    passes: int | None

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        own = {name: getattr(self, name) for name in (*PLAIN_FIELDS, "on_front")}
        return {
            **self.arm._asdict(),
            **own,
            "cells": [cell.to_json() for cell in self.cells],
            "unsafe": asdict(self.unsafe),
            "over_refusal": asdict(self.over_refusal),
            "cost": self.cost and self.cost.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DefenceRow:
        """Restore a row from `to_json`."""
        return cls(
            arm=Arm(**{name: content[name] for name in Arm._fields}),
            cells=tuple(map(DefenceCell.from_json, content["cells"])),
            unsafe=Rate(**content["unsafe"]),
            over_refusal=Rate(**content["over_refusal"]),
            cost=content["cost"] and Cost.from_json(content["cost"]),
            **{name: content[name] for name in (*PLAIN_FIELDS, "on_front")},
        )


# The fields of a row that are JSON types.
PLAIN_FIELDS = ("name", "kind", "plain", "cmrm", "tokens", "prompt_tokens", "passes")


@dataclass(frozen=True, kw_only=True)
class DefenceTable:
    """The table of defences. p values are corrected over all of its comparisons (Holm)."""

    columns: tuple[Column, ...]
    rows: tuple[DefenceRow, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            "columns": [asdict(column) for column in self.columns],
            "rows": [row.to_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> DefenceTable:
        """Restore a table from `to_json`."""
        return cls(
            columns=tuple(Column(**column) for column in content["columns"]),
            rows=tuple(map(DefenceRow.from_json, content["rows"])),
        )

    def models(self) -> list[str]:
        """The models, in the order of their rows."""
        return list(dict.fromkeys(row.arm.model for row in self.rows))


def has_defences(settings: Mapping[str, Mapping[str, str]]) -> bool:
    """Whether any intervention is of another kind than CMRM; `settings` are those of the interventions by name."""
    return any(one.get("kind", CMRM) != CMRM for one in settings.values())


def make_defence_table(
    outcomes: Outcomes,
    table: Table,
    *,
    settings: Mapping[str, Mapping[str, str]],
    passes: Mapping[str, int],
    tokens: Mapping[Arm, TokenCount],
    costs: Iterable[Mapping[str, Any]],
) -> DefenceTable | None:
    """Make the table of a run with defences of other kinds than CMRM, by the first judge of each kind; else None.

    `table` is the main table of the same outcomes. `settings` and `passes` are by name; `costs` are as
    `describe_costs` returns them. A defence is compared with plain answers and with the first CMRM arm under the same
    condition.
    """
    if not has_defences(settings):
        return None
    kinds = {name: one.get("kind", CMRM) for name, one in settings.items()}
    steered = {row.arm.condition for row in table.rows if row.arm.intervention}
    shown = [row for row in table.rows if row.arm.intervention or row.arm.condition in steered]
    columns = find_leading(table.columns)
    seconds = {
        (one["model"], one["intervention"], one["alpha"]): Cost.from_json(one["cost"])
        for one in costs
        if not one["dataset"]
    }
    rows = []
    for row in shown:
        arm = row.arm
        cmrm = _find_cmrm(arm, shown, kinds)
        spent = tokens.get(arm, UNKNOWN)
        rows.append(
            DefenceRow(
                arm=arm,
                name=row.name,
                kind=kinds.get(arm.intervention, "") if arm.intervention else "",
                plain=row.baseline if arm.intervention else "",
                cmrm=cmrm.name if cmrm else "",
                cells=tuple(
                    _compare(outcomes, row, row.cells[place], table.columns[place], cmrm) for place in columns
                ),
                unsafe=rate_measured(outcomes.pool(arm, "unsafe")),
                over_refusal=rate_measured(outcomes.pool(arm, "over_refusal")),
                on_front=False,
                tokens=spent.generated,
                prompt_tokens=spent.prompt,
                cost=seconds.get((arm.model, arm.intervention, arm.alpha))
                if arm.condition == TIMED
                else None,
                passes=passes.get(arm.intervention) if arm.intervention else 1,
            )
        )
    return DefenceTable(
        columns=tuple(table.columns[place] for place in columns), rows=tuple(_mark_front(_correct(rows)))
    )


def _find_cmrm(arm: Arm, rows: Sequence[Row], kinds: Mapping[str, str]) -> Row | None:
    """Find the first CMRM row under an intervention's condition; None for itself, and where there is none."""
    if not arm.intervention:
        return None
    first = next(
        (
            row
            for row in rows
            if row.arm.intervention
            and kinds.get(row.arm.intervention) == CMRM
            and (row.arm.model, row.arm.condition) == (arm.model, arm.condition)
        ),
        None,
    )
    return None if first is None or first.arm == arm else first


def _compare(outcomes: Outcomes, row: Row, cell: Cell, column: Column, cmrm: Row | None) -> DefenceCell:
    """Compare a cell of the main table with plain answers, as is done there, and with CMRM."""
    return DefenceCell(
        value=cell.value,
        unmeasured=cell.unmeasured,
        from_plain=_keep_paired(cell.change) if row.arm.intervention else None,
        from_cmrm=_keep_paired(compare_arms(outcomes, cmrm.arm, row.arm, column)) if cmrm else None,
    )


def _keep_paired(change: Comparison | None) -> Comparison | None:
    return change if change is not None and change.n else None


def _correct(rows: Sequence[DefenceRow]) -> list[DefenceRow]:
    """Correct p over both comparisons of all cells (Holm)."""
    changes = (
        change
        for row in rows
        for cell in row.cells
        for change in (cell.from_plain, cell.from_cmrm)
        if change is not None
    )
    corrected = iter(adjust(list(changes)))
    return [
        replace(
            row,
            cells=tuple(
                replace(
                    cell,
                    from_plain=cell.from_plain and next(corrected),
                    from_cmrm=cell.from_cmrm and next(corrected),
                )
                for cell in row.cells
            ),
        )
        for row in rows
    ]


def _mark_front(rows: Sequence[DefenceRow]) -> list[DefenceRow]:
    marked = list(rows)
    for model in dict.fromkeys(row.arm.model for row in rows):
        costs = {
            place: (row.unsafe.value, row.over_refusal.value)
            for place, row in enumerate(rows)
            if row.arm.model == model
            and row.arm.condition == TIMED
            and row.unsafe.value is not None
            and row.over_refusal.value is not None
        }
        places = list(costs)
        for one in find_undominated([(unsafe or 0.0, refused or 0.0) for unsafe, refused in costs.values()]):
            marked[places[one]] = replace(rows[places[one]], on_front=True)
    return marked
