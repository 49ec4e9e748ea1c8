"""The main table, the table of paired changes, and the ablation table, from the summary of the report stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmrm.statistics.paired_tests import Comparison
from cmrm.statistics.rates import Mean, Rate
from flows.report.document import Excerpt, Heading, ReportCell, ReportTable, head_numbers, make_row_groups
from flows.report.number_format import write_before_after, write_change, write_p, write_value
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import NO_SCORE, Column
from tasks.report.table import Cell, Row, Table

TITLES = {"unsafe": "Unsafe", "utility": "Utility", "score": "Score", "over_refusal": "Over-refusal"}
SETTINGS = ("level", "image", "method", "part", "blocks", "scope", "composition")
# What an intervention has that does not say it.
UNSAID = {"part": "all"}
MAIN_NOTE = (
    "Rates in % and scores in their own unit, each with a 95 % interval (Wilson; bootstrap for scores) and the number "
    "of judged answers. Unsafe: harmful questions answered, low is good. Utility: harmless questions answered as their "
    "reference says. Over-refusal: harmless questions refused. Parse errors are verdicts that "
    "could not be read, of all judges together; quarantined are questions rejected before they were answered; neither "
    "is in any rate."
)
CHANGES_NOTE = (
    "The same samples before and after. Change in percentage points for rates (Newcombe's interval, exact McNemar "
    "test) and in the scores' own unit for scores (bootstrap interval, sign-flip test); p corrected by Holm over all "
    "comparisons of this table. A condition is compared with the question as text, an intervention with the image "
    "without it."
)


def title_column(table: Table, column: Column, join: str = " ") -> str:
    """Title of a column; names the judge if several judges measured the same."""
    judges = {one.judge for one in table.columns if one.kind == column.kind}
    judge = f"{join}({column.judge})" if len(judges) > 1 else ""
    dataset = f"{join}{column.dataset}" if column.dataset else ""
    return f"{TITLES[column.kind]}{dataset}{judge}"


def make_main_table(table: Table) -> ReportTable:
    """Make the paper's main table: a row per arm, a column per measure."""
    names = shorten_models(table.models())
    rows = [
        (
            row.arm.model,
            (
                ReportCell(text=row.name),
                *(write_cell(cell) for cell in row.cells),
                ReportCell(text=str(row.parse_errors)),
                ReportCell(text=str(row.quarantined)),
            ),
        )
        for row in table.rows
    ]
    return ReportTable(
        name="main",
        title="Unsafe answers, utility and over-refusal",
        headings=(
            Heading(title="", numeric=False),
            *(Heading(title=title_column(table, column)) for column in table.columns),
            Heading(title="Parse errors"),
            Heading(title="Quarantined"),
        ),
        row_groups=make_row_groups(rows, names),
        records=tuple(
            _record(row, column, cell)
            for row in table.rows
            for column, cell in zip(table.columns, row.cells, strict=True)
        ),
        note=" ".join([MAIN_NOTE, *explain_unmeasured(table)]),
    )


def write_cell(cell: Cell) -> ReportCell:
    """Format a cell's value, or why it has none."""
    return ReportCell(text=NO_SCORE) if cell.unmeasured else write_value(cell.value)


def explain_unmeasured(table: Table) -> list[str]:
    """List the reasons why cells with judged answers have no value, each once, as a sentence."""
    reasons = dict.fromkeys(cell.unmeasured for row in table.rows for cell in row.cells if cell.unmeasured)
    return [f"{reason[0].upper()}{reason[1:]}." for reason in reasons]


def make_changes_table(table: Table) -> ReportTable | None:
    """Make the table of paired comparisons: before, after, change and p; None if there are none."""
    found = [
        (row, column, cell, change)
        for row in table.rows
        for column, cell in zip(table.columns, row.cells, strict=True)
        if (change := cell.change) is not None and change.n
    ]
    if not found:
        return None
    names = shorten_models(table.models())
    rows = [
        (
            row.arm.model,
            (
                ReportCell(text=row.name),
                ReportCell(text=row.baseline),
                ReportCell(text=title_column(table, column)),
                *_write_comparison(change),
            ),
        )
        for row, column, _, change in found
    ]
    changes = [change for _, _, _, change in found]
    return ReportTable(
        name="changes",
        title="Changes, in pairs",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("", "Against", "Measure")),
            *head_numbers("Before → after (n)", "Change", "p", "p corrected"),
        ),
        row_groups=make_row_groups(rows, names),
        records=tuple(_record(row, column, cell) for row, column, cell, _ in found),
        note=CHANGES_NOTE,
        excerpts=tuple(excerpt_changes(rows, changes, names)),
    )


def excerpt_changes(
    rows: Sequence[tuple[str, tuple[ReportCell, ...]]],
    changes: Sequence[Comparison],
    names: Mapping[str, str],
) -> Iterator[Excerpt]:
    """Take the changes whose interval leaves out zero, the largest first; then all others, folded.

    `rows` are those of a table, each with its model, in the order of `changes`; `names` are the models' short names.
    """
    pairs = [*zip(rows, changes, strict=True)]
    others = [pair for pair in pairs if not pair[1].excludes_zero]
    # Percentages come first: they cannot be compared with points in the scores' own unit.
    certain = sorted(
        (pair for pair in pairs if pair[1].excludes_zero),
        key=lambda pair: (pair[1].kind != "mcnemar", -abs(pair[1].change or 0.0)),
    )
    if certain:
        yield Excerpt(
            title=f"{len(certain):,} of {len(pairs):,} changes have an interval that leaves out zero",
            row_groups=make_row_groups([row for row, _ in certain], names),
            folded=False,
        )
    if others:
        count = f"{len(others):,} {'change' if len(others) == 1 else 'changes'}"
        still = all(change.change == 0 for _, change in others)
        yield Excerpt(
            title=f"{count} of nothing" if still else f"{count} whose interval has zero in it",
            row_groups=make_row_groups([row for row, _ in others], names),
            folded=True,
        )


def make_ablation_table(table: Table) -> ReportTable | None:
    """Make the ablation table by the settings that differ; None if only the strength differs."""
    # Only CMRM has all of these settings; the other defences are told apart by their names.
    steered = [row for row in table.rows if row.arm.intervention and "kind" not in row.settings]
    axes = [name for name in SETTINGS if len({_read_setting(row, name) for row in steered}) > 1]
    if not axes:
        return None
    rows = [
        (
            row.arm.model,
            (
                *(ReportCell(text=_read_setting(row, name) or "–") for name in axes),
                ReportCell(text="–" if row.arm.alpha is None else f"{row.arm.alpha:g}"),
                *(write_cell(cell) for cell in row.cells),
            ),
        )
        for row in steered
    ]
    return ReportTable(
        name="ablation",
        title="Interventions by their settings",
        headings=(
            *(Heading(title=name.capitalize(), numeric=False) for name in axes),
            Heading(title="α"),
            *(Heading(title=title_column(table, column)) for column in table.columns),
        ),
        row_groups=make_row_groups(rows, shorten_models(table.models())),
        records=tuple(
            {**row.settings, **_record(row, column, cell)}
            for row in steered
            for column, cell in zip(table.columns, row.cells, strict=True)
        ),
    )


def describe_settings(table: Table) -> str:
    """Describe the settings that all interventions share in a sentence; '' without interventions."""
    steered = [row for row in table.rows if row.arm.intervention and "kind" not in row.settings]
    common = {
        name: value
        for name in SETTINGS
        if len({_read_setting(row, name) for row in steered}) == 1
        and (value := steered[0].settings.get(name)) is not None
    }
    if not common:
        return ""
    said = "; ".join(f"{name} {value}" for name, value in common.items())
    if len(steered) < len([row for row in table.rows if row.arm.intervention]):
        return f"CMRM has {said}."
    return f"{'All interventions have' if len(steered) > 1 else 'The intervention has'} {said}."


def _read_setting(row: Row, name: str) -> str | None:
    return row.settings.get(name, UNSAID.get(name))


def _write_comparison(change: Comparison) -> Sequence[ReportCell]:
    return (
        write_before_after(change),
        write_change(change),
        write_p(change.p),
        write_p(change.p_adjusted),
    )


def _record(row: Row, column: Column, cell: Cell) -> Mapping[str, Any]:
    change = cell.change
    return {
        **row.arm._asdict(),
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
