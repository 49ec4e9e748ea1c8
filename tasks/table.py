"""The main table: a block of rows a model, a row a way of asking, each held against its baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cmrm.comparisons import Comparison, adjust, compare_scores, compare_verdicts
from cmrm.conditions import CONDITIONS
from cmrm.statistics import Mean, Rate
from tasks.outcomes import Column, Outcomes, Way, keep_measured, keep_pairs

CONDITION_NAMES = {
    "query": "Query",
    "caption": "Caption",
    "image": "Image",
    "blank": "Blank image",
    "blank-black": "Black image",
    "blank-mean": "Mean-colour image",
    "noise": "Noise image",
    "noise-gaussian": "Gaussian noise",
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure: a rate, or a mean for scores, and its change from the row's baseline; None without a baseline.

    `unmeasured` says why there is no figure although answers were judged, '' otherwise.
    """

    value: Rate | Mean
    change: Comparison | None = None
    unmeasured: str = ""

    def to_json(self) -> dict[str, Any]:
        """As JSON types: what everything else follows from."""
        return {
            "value": asdict(self.value),
            "change": self.change and self.change.to_json(),
            "unmeasured": self.unmeasured or None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Cell:
        """The cell that `to_json` wrote."""
        kind = Rate if "successes" in content["value"] else Mean
        change = content["change"]
        return cls(
            value=kind(**content["value"]),
            change=change and Comparison.from_json(change),
            # Tables of earlier releases do not say.
            unmeasured=content.get("unmeasured") or "",
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of asking: what it is, one cell a column, and what is counted in no cell.

    `baseline` is the name of the row that its changes are from, '' for none; `settings` are the intervention's.
    """

    way: Way
    name: str
    baseline: str
    settings: Mapping[str, str]
    cells: tuple[Cell, ...]
    parse_errors: int
    quarantined: int

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return {
            **self.way._asdict(),
            "name": self.name,
            "baseline": self.baseline,
            "settings": dict(self.settings),
            "cells": [cell.to_json() for cell in self.cells],
            "parse_errors": self.parse_errors,
            "quarantined": self.quarantined,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Row:
        """The row that `to_json` wrote."""
        return cls(
            way=Way(**{name: content[name] for name in Way._fields}),
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
        """The table that `to_json` wrote."""
        return cls(
            columns=tuple(Column(**column) for column in content["columns"]),
            rows=tuple(map(Row.from_json, content["rows"])),
        )

    def models(self) -> list[str]:
        """The models, in the order of their blocks."""
        return list(dict.fromkeys(row.way.model for row in self.rows))

    def find(self, model: str, condition: str) -> Row | None:
        """The row of a model under a condition as it is, or None."""
        return next((row for row in self.rows if row.way == Way(model, condition)), None)


def make_table(
    outcomes: Outcomes,
    *,
    settings: Mapping[str, Mapping[str, str]],
    quarantined: Mapping[Way, int],
) -> Table:
    """Make the table of all ways; `settings` are those of the interventions by name, in the order of the spec."""
    columns = outcomes.columns()
    rows = [
        Row(
            way=way,
            name=name_way(way),
            baseline="" if (baseline := find_baseline(way, outcomes.ways)) is None else name_way(baseline),
            settings=settings.get(way.intervention, {}),
            cells=tuple(_fill(outcomes, way, baseline, column) for column in columns),
            parse_errors=outcomes.parse_errors[way],
            quarantined=quarantined.get(way, 0),
        )
        for way in sort_ways(outcomes.ways, list(settings))
    ]
    return _correct(Table(columns=tuple(columns), rows=tuple(rows)))


def sort_ways(ways: Mapping[Way, None], interventions: Sequence[str]) -> list[Way]:
    """Order ways: models as they came, within one the conditions in the paper's order, then the interventions."""
    models = list(dict.fromkeys(way.model for way in ways))
    known = {name: place for place, name in enumerate(interventions)}

    def place(way: Way) -> tuple[int, int, int]:
        own = known.get(way.intervention, len(known)) + 1 if way.intervention else 0
        return models.index(way.model), own, [*CONDITIONS].index(way.condition)  # type: ignore[arg-type]

    return sorted(ways, key=place)


def find_baseline(way: Way, ways: Mapping[Way, None]) -> Way | None:
    """What a way is held against: an intervention against the image without it, a condition against the question."""
    against = Way(way.model, way.condition if way.intervention else "query")
    return against if against in ways and against != way else None


def name_way(way: Way) -> str:
    """What a table calls a way."""
    return f"{way.intervention} α={way.alpha:g}" if way.intervention else CONDITION_NAMES[way.condition]


def _fill(outcomes: Outcomes, way: Way, baseline: Way | None, column: Column) -> Cell:
    own = outcomes.get(way, column)
    measured = keep_measured(own)
    value = Mean.of(measured) if column.kind == "score" else Rate.of(one > 0 for one in measured)
    unmeasured = outcomes.explain(way, column)
    if baseline is None:
        return Cell(value=value, unmeasured=unmeasured)
    before, after = keep_pairs(outcomes.get(baseline, column), own)
    if column.kind == "score":
        return Cell(value=value, change=compare_scores(before, after), unmeasured=unmeasured)
    return Cell(value=value, change=compare_verdicts([one > 0 for one in before], [one > 0 for one in after]))


def _correct(table: Table) -> Table:
    corrected = iter(adjust([cell.change for row in table.rows for cell in row.cells if cell.change]))

    def correct(cells: Sequence[Cell]) -> Iterator[Cell]:
        for cell in cells:
            yield cell if cell.change is None else replace(cell, change=next(corrected))

    return replace(table, rows=tuple(replace(row, cells=tuple(correct(row.cells))) for row in table.rows))
