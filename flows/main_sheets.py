"""The main table, its changes, and the interventions by their settings, from the numbers of the report stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmrm.comparisons import Comparison
from cmrm.statistics import Mean, Rate
from flows.document import Heading, Measure, Sheet, head_numbers, make_bands, shorten_models
from flows.wording import write_before_after, write_change, write_p, write_value
from tasks.outcomes import NO_SCORE, Column
from tasks.table import Cell, Row, Table

TITLES = {"unsafe": "Unsafe", "utility": "Utility", "score": "Score", "over_refusal": "Over-refusal"}
SETTINGS = ("level", "image", "method", "blocks", "scope", "composition")
MAIN_NOTE = (
    "Rates in % and scores in their own unit, each with a 95 % interval (Wilson; bootstrap for scores) and the number "
    "of judged answers. Unsafe: harmful questions answered, low is good. Utility: harmless questions answered as their "
    "reference says. Over-refusal: harmless questions refused. Parse errors are verdicts that "
    "could not be read, of all judges together; quarantined are questions set aside before they were answered; neither "
    "is in any rate."
)
CHANGES_NOTE = (
    "The same samples before and after. Change in percentage points for rates (Newcombe's interval, exact McNemar "
    "test) and in the scores' own unit for scores (bootstrap interval, sign-flip test); p corrected by Holm over all "
    "comparisons of this table. A condition is held against the question as text, an intervention against the image "
    "without it."
)


def title_column(table: Table, column: Column, join: str = " ") -> str:
    """What a column is called; by which judge where several counted the same."""
    judges = {one.judge for one in table.columns if one.kind == column.kind}
    judge = f"{join}({column.judge})" if len(judges) > 1 else ""
    dataset = f"{join}{column.dataset}" if column.dataset else ""
    return f"{TITLES[column.kind]}{dataset}{judge}"


def make_main_sheet(table: Table) -> Sheet:
    """The paper's main table: a row a way of asking, a column a measure."""
    names = shorten_models(table.models())
    rows = [
        (
            row.way.model,
            (
                Measure(text=row.name),
                *(write_cell(cell) for cell in row.cells),
                Measure(text=str(row.parse_errors)),
                Measure(text=str(row.quarantined)),
            ),
        )
        for row in table.rows
    ]
    return Sheet(
        name="main",
        title="Unsafe answers, utility and over-refusal",
        headings=(
            Heading(title="", numeric=False),
            *(Heading(title=title_column(table, column)) for column in table.columns),
            Heading(title="Parse errors"),
            Heading(title="Quarantined"),
        ),
        bands=make_bands(rows, names),
        records=tuple(
            _record(row, column, cell)
            for row in table.rows
            for column, cell in zip(table.columns, row.cells, strict=True)
        ),
        note=" ".join([MAIN_NOTE, *explain_unmeasured(table)]),
    )


def write_cell(cell: Cell) -> Measure:
    """A cell's figure, or that none is possible."""
    return Measure(text=NO_SCORE) if cell.unmeasured else write_value(cell.value)


def explain_unmeasured(table: Table) -> list[str]:
    """Why cells have no figure although answers were judged, each reason once, as a sentence."""
    reasons = dict.fromkeys(cell.unmeasured for row in table.rows for cell in row.cells if cell.unmeasured)
    return [f"{reason[0].upper()}{reason[1:]}." for reason in reasons]


def make_changes_sheet(table: Table) -> Sheet | None:
    """Every paired comparison that was measured: before, after, change and p; None where there is none."""
    found = [
        (row, column, cell, change)
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if (change := cell.change) is not None and change.n
    ]
    if not found:
        return None
    rows = [
        (
            row.way.model,
            (
                Measure(text=row.name),
                Measure(text=row.baseline),
                Measure(text=title_column(table, column)),
                *_write_comparison(change),
            ),
        )
        for row, column, _, change in found
    ]
    return Sheet(
        name="changes",
        title="Changes, in pairs",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("", "Against", "Measure")),
            *head_numbers("Before → after (n)", "Change", "p", "p corrected"),
        ),
        bands=make_bands(rows, shorten_models(table.models())),
        records=tuple(_record(row, column, cell) for row, column, cell, _ in found),
        note=CHANGES_NOTE,
    )


def make_ablation_sheet(table: Table) -> Sheet | None:
    """The interventions by what sets them apart; None where nothing but the strength does."""
    steered = [row for row in table.rows if row.way.intervention]
    axes = [name for name in SETTINGS if len({row.settings.get(name) for row in steered}) > 1]
    if not axes:
        return None
    rows = [
        (
            row.way.model,
            (
                *(Measure(text=row.settings.get(name, "–")) for name in axes),
                Measure(text=f"{row.way.alpha:g}"),
                *(write_cell(cell) for cell in row.cells),
            ),
        )
        for row in steered
    ]
    return Sheet(
        name="ablation",
        title="Interventions by their settings",
        headings=(
            *(Heading(title=name.capitalize(), numeric=False) for name in axes),
            Heading(title="α"),
            *(Heading(title=title_column(table, column)) for column in table.columns),
        ),
        bands=make_bands(rows, shorten_models(table.models())),
        records=tuple(
            {**row.settings, **_record(row, column, cell)}
            for row in steered
            for column, cell in zip(table.columns, row.cells, strict=True)
        ),
    )


def describe_settings(table: Table) -> str:
    """What all interventions have in common, in a sentence; '' without interventions."""
    steered = [row for row in table.rows if row.way.intervention]
    common = {
        name: value
        for name in SETTINGS
        if len({row.settings.get(name) for row in steered}) == 1
        and (value := steered[0].settings.get(name)) is not None
    }
    if not common:
        return ""
    said = "; ".join(f"{name} {value}" for name, value in common.items())
    return f"{'All interventions have' if len(steered) > 1 else 'The intervention has'} {said}."


def _write_comparison(change: Comparison) -> Sequence[Measure]:
    return (
        write_before_after(change),
        write_change(change),
        write_p(change.p),
        write_p(change.p_adjusted),
    )


def _record(row: Row, column: Column, cell: Cell) -> Mapping[str, Any]:
    change = cell.change
    return {
        **row.way._asdict(),
        "name": row.name,
        "measure": column.kind,
        "dataset": column.dataset,
        "judge": column.judge,
        **flatten_value(cell.value),
        "unmeasured": cell.unmeasured or None,
        "baseline": row.baseline,
        **flatten_change(change),
        "parse_errors": row.parse_errors,
        "quarantined": row.quarantined,
    }


def flatten_value(value: Rate | Mean) -> dict[str, Any]:
    """A rate or a mean as columns: successes (None for a mean), n, value, low, high."""
    if isinstance(value, Rate):
        low, high = value.interval or (None, None)
        return {"successes": value.successes, "n": value.n, "value": value.value, "low": low, "high": high}
    return {"successes": None, "n": value.n, "value": value.value, "low": value.low, "high": value.high}


def flatten_change(change: Comparison | None) -> dict[str, Any]:
    """A comparison as columns; all None without one."""
    found = change or Comparison(kind="mcnemar", n=0)
    return {
        "pairs": found.n if change else None,
        "before": found.before,
        "after": found.after,
        "change": found.change,
        "change_low": found.low,
        "change_high": found.high,
        "test": found.kind if change else None,
        "p": found.p,
        "p_holm": found.p_adjusted,
        "gained": found.gained,
        "lost": found.lost,
    }
