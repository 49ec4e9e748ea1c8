"""The main table for a terminal, and one line each about quarantined rows and parse errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from cmrm.statistics.rates import Mean
from flows.report.number_format import NOT_MEASURED
from flows.report.tables.main import TITLES, explain_unmeasured, title_column
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, choose_columns, make_table, measure_text
from tasks.report.judge_costs import JudgeTotals
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import NO_SCORE, Column
from tasks.report.summary import QuarantineCount
from tasks.report.table import Cell, Row, Table

if TYPE_CHECKING:
    from rich.table import Table as Grid

MOST_ROWS = 40
WIDEST_NAME = 30
WIDEST_TITLE = 16
# Kinds of columns in order of priority.
FIRST = ("unsafe", "over_refusal", "utility", "score")


def render_grid(table: Table) -> Grid:
    """Render the main table for a terminal of 80 columns: percentages with 95 % intervals, row groups by model.

    If not all columns fit, safety, over-refusal and utility come first, and the caption says so.
    """
    names = shorten_models(table.models())
    rows = table.rows[:MOST_ROWS]
    columns = _choose_columns(table, rows)
    grid = make_table(
        [
            TableColumn(widest=WIDEST_NAME),
            *(TableColumn(title=_title(table, place), justify="right", no_wrap=True) for place in columns),
        ],
        caption=_caption(table, columns),
    )
    for before, row in zip((None, *rows), rows, strict=False):
        if len(names) > 1 and (before is None or before.arm.model != row.arm.model):
            grid.add_row(Text(show_safely(names[row.arm.model]), style="italic"))
        grid.add_row(
            Text(show_safely(row.name)),
            *(_short(row.cells[place]) for place in columns),
            style="bold" if row.arm.intervention else "",
        )
    return grid


def describe_quarantine(quarantined: Sequence[QuarantineCount]) -> str:
    """Describe in one line how many rows were quarantined, by stage."""
    counts: dict[str, int] = {}
    for one in quarantined:
        counts[one.stage] = counts.get(one.stage, 0) + one.rows
    if not counts:
        return "Quarantined rows: none."
    by_stage = ", ".join(f"{rows} in {stage}" for stage, rows in counts.items())
    return f"Quarantined rows: {sum(counts.values())} ({by_stage})."


def describe_parse_errors(judges: Sequence[JudgeTotals]) -> str:
    """Describe in one line how many verdicts could not be parsed, by judge; they count in no rate."""
    errors = {one.name: one.parse_errors for one in judges if one.parse_errors}
    if not errors:
        return "Parse errors: none."
    by = (
        f" ({', '.join(f'{count:,} by {name}' for name, count in errors.items())})" if len(judges) > 1 else ""
    )
    return f"Parse errors: {sum(errors.values()):,}{by}, counted in no rate."


def _choose_columns(table: Table, rows: Sequence[Row]) -> list[int]:
    """Choose the indices of the columns that fit the width: one of each kind first, then as many more as fit."""
    names = [*(row.name for row in rows), *shorten_models(table.models()).values()]
    places = range(len(table.columns))
    firsts = {column.kind: place for place, column in reversed([*enumerate(table.columns)])}
    # Of the other columns those of the same judge come first: another data set rather than another judge.
    judges = {table.columns[place].judge for place in firsts.values()}
    more = sorted(
        set(places) - set(firsts.values()), key=lambda place: table.columns[place].judge not in judges
    )
    order = [*(firsts[kind] for kind in FIRST if kind in firsts), *more]
    widths = [
        measure_text(_title(table, place), *(_short(row.cells[place]) for row in rows)) for place in order
    ]
    fitting = choose_columns(min(WIDEST_NAME, measure_text(*map(show_safely, names))), widths)
    return sorted(order[place] for place in fitting)


def _caption(table: Table, columns: Sequence[int]) -> Text:
    kinds = {table.columns[place].kind for place in columns}
    lines = ["% [95 % Wilson interval]" + (", score [95 % bootstrap interval]" if "score" in kinds else "")]
    lines += explain_unmeasured(table)
    if len(columns) < len(table.columns):
        lines.append(f"{len(columns)} of {len(table.columns)} columns; report.md has all.")
    if len(table.rows) > MOST_ROWS:
        lines.append(f"{MOST_ROWS} of {len(table.rows)} rows; report.md has all.")
    return Text("\n".join(lines))


def _title(table: Table, place: int) -> Text:
    column: Column = table.columns[place]
    lines = [TITLES[column.kind], *title_column(table, column, "\n").splitlines()[1:]]
    return Text("\n".join(_cut(show_safely(line)) for line in lines))


def _cut(line: str) -> str:
    return line if len(line) <= WIDEST_TITLE else f"{line[: WIDEST_TITLE - 1]}…"


def _short(cell: Cell) -> str:
    if cell.unmeasured:
        return NO_SCORE
    value = cell.value
    if value.value is None:
        return NOT_MEASURED
    if isinstance(value, Mean):
        return str(value)
    low, high = value.interval or (0.0, 1.0)
    # Round outwards, so that the interval never narrows; 1e-9 absorbs the rounding error of a whole number.
    bounds = math.floor(100 * low + 1e-9), math.ceil(100 * high - 1e-9)
    return f"{100 * value.value:.1f} [{bounds[0]}–{bounds[1]}]"
