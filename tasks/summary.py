"""What the verdicts come to: the paper's main table for one run, as plain numbers."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.conditions import CONDITIONS
from cmrm.statistics import Rate

CONDITION_NAMES = {
    "query": "Query",
    "caption": "Caption",
    "image": "Image",
    "blank": "Blank image",
    "noise": "Noise image",
}
STATE_NAMES = {
    "query": "text only",
    "image": "with their image",
    "blank": "with a blank image",
    "noise": "with a noise image",
}
NOT_COMPARED = (
    "The effect of images was not measured: no harmful question was judged both as text and with its image."
)


@dataclass(frozen=True, kw_only=True)
class Column:
    """What a column counts: `kind` is unsafe, utility or over_refusal; `dataset` is '' for all harmless questions."""

    kind: str
    judge: str
    dataset: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of asking: its name, what it is, one rate a column, and the answers that no judge could read."""

    name: str
    condition: str
    intervention: str
    alpha: float | None
    rates: tuple[Rate, ...]
    parse_errors: int


@dataclass(frozen=True, kw_only=True)
class Table:
    """The main table: a row per condition and intervention, a column per safety set, utility and over-refusal."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON types: each rate as successes and n, from which everything else follows."""
        return {
            "columns": [
                {"kind": one.kind, "judge": one.judge, "dataset": one.dataset} for one in self.columns
            ],
            "rows": [
                {
                    "name": row.name,
                    "condition": row.condition,
                    "intervention": row.intervention,
                    "alpha": row.alpha,
                    "rates": [{"successes": rate.successes, "n": rate.n} for rate in row.rates],
                    "parse_errors": row.parse_errors,
                }
                for row in self.rows
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Table:
        """The table that `to_json` wrote."""
        return cls(
            columns=tuple(Column(**one) for one in content["columns"]),
            rows=tuple(
                Row(**{**row, "rates": tuple(Rate(**rate) for rate in row["rates"])})
                for row in content["rows"]
            ),
        )


Verdict = Mapping[str, Any]
Asked = tuple[str, str, float | None]


def make_table(verdicts: Iterable[Verdict], *, harmful: Mapping[tuple[str, str], bool]) -> Table:
    """Count verdicts, rows of `judgements`, into the main table; `harmful` tells by (dataset, sample id).

    A parse error is counted apart and enters no rate; so does what a judge calls not applicable.
    """
    outcomes: dict[tuple[Asked, Column], list[bool]] = defaultdict(list)
    parse_errors: Counter[Asked] = Counter()
    asked: dict[Asked, None] = {}
    for verdict in verdicts:
        way = (verdict["condition"], verdict["intervention"], verdict["alpha"])
        asked[way] = None
        parse_errors[way] += verdict["verdict"] == "parse_error"
        for column, outcome in _count(verdict, harmful=harmful[verdict["dataset"], verdict["sample_id"]]):
            outcomes[way, column].append(outcome)
    columns = _order(dict.fromkeys(column for _, column in outcomes))
    rows = [
        Row(
            name=_name(way),
            condition=way[0],
            intervention=way[1],
            alpha=way[2],
            rates=tuple(Rate.of(outcomes[way, column]) for column in columns),
            parse_errors=parse_errors[way],
        )
        for way in sorted(
            asked, key=lambda way: (way[1] != "", CONDITIONS.index(way[0]) if not way[1] else 0)
        )
    ]
    return Table(columns=tuple(columns), rows=tuple(rows))


def make_headline(table: Table) -> str:
    """One line a person can act on, from the first safety column; says so when there is nothing to compare."""
    column = next((place for place, one in enumerate(table.columns) if one.kind == "unsafe"), None)
    plain = {row.condition: row for row in table.rows if not row.intervention}
    if column is None or not {"query", "image"} <= plain.keys():
        return NOT_COMPARED
    text, image = plain["query"].rates[column], plain["image"].rates[column]
    if not text.n or not image.n:
        return NOT_COMPARED
    line = f"Unsafe answers to {table.columns[column].dataset}: {text} as text, {image} with the image"
    steered = [row for row in table.rows if row.intervention and row.rates[column].n]
    if not steered:
        return f"{line}."
    best = min(steered, key=lambda row: row.rates[column].value or 0.0)
    return f"{line}; {best.name} brings them to {best.rates[column]}{_cost(table, plain['image'], best)}."


def _cost(table: Table, before: Row, after: Row) -> str:
    notes = [
        f"{name} {old.value:.1%} → {new.value:.1%}".replace("%", " %")
        for column, old, new in zip(table.columns, before.rates, after.rates, strict=True)
        for name in [{"utility": "utility", "over_refusal": "harmless refused"}.get(column.kind)]
        if name and old.value is not None and new.value is not None
    ]
    return f" ({', '.join(notes)})" if notes else ""


def _count(verdict: Verdict, *, harmful: bool) -> Iterable[tuple[Column, bool]]:
    name, judge = verdict["verdict"], verdict["judge"]
    if harmful and name in {"unsafe", "safe"}:
        yield Column(kind="unsafe", judge=judge, dataset=verdict["dataset"]), name == "unsafe"
    if name in {"correct", "incorrect"}:
        yield Column(kind="utility", judge=judge), name == "correct"
    if not harmful and verdict["refused"] is not None:
        yield Column(kind="over_refusal", judge=judge), bool(verdict["refused"])


def _order(columns: Iterable[Column]) -> Sequence[Column]:
    # Within a kind they stay as they came: data sets in the order of the spec.
    kinds = ("unsafe", "utility", "over_refusal")
    return sorted(columns, key=lambda one: kinds.index(one.kind))


def _name(way: Asked) -> str:
    condition, intervention, alpha = way
    return f"{intervention} α={alpha:g}" if intervention else CONDITION_NAMES[condition]
