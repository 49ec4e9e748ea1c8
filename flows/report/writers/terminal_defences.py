"""The table of defences for a terminal: how each changes the rates, against plain answers and against CMRM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from cmrm.statistics.paired_tests import Comparison
from flows.report.number_format import NOT_MEASURED, signed, signed_percent
from flows.report.tables.defences import is_significant, title_defence_column
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, choose_columns, make_table, measure_text
from tasks.report.defences import DefenceRow, DefenceTable
from tasks.report.model_names import shorten_models

if TYPE_CHECKING:
    from rich.table import Table as Grid

MOST_ROWS = 40
WIDEST_NAME = 26
WIDEST_TITLE = 13
# Kinds of columns in order of priority.
FIRST = ("unsafe", "over_refusal", "utility", "score")


def render_defences(table: DefenceTable) -> Grid:
    """Render the changes of each defence for a terminal of 80 columns; changes of rates are in percentage points.

    A cell is the change from plain answers and that from CMRM. If not all columns fit, safety, over-refusal and
    utility come first, and the caption says so.
    """
    names = shorten_models(table.models())
    rows = [row for row in table.rows if row.kind]
    shown = rows[:MOST_ROWS]
    titles = [
        "\n".join(_cut(show_safely(line)) for line in title_defence_column(column, "\n").splitlines())
        for column in table.columns
    ]
    order = sorted(range(len(titles)), key=lambda place: FIRST.index(table.columns[place].kind))
    first = min(WIDEST_NAME, measure_text(*(show_safely(row.name) for row in shown), *names.values()))
    widths = [measure_text(titles[place], *(_show(row, place) for row in shown)) for place in order]
    columns = sorted(order[place] for place in choose_columns(first, widths))
    grid = make_table(
        [
            TableColumn(title="Changes", widest=WIDEST_NAME),
            *(TableColumn(title=titles[place], justify="right", no_wrap=True) for place in columns),
        ],
        caption=Text("\n".join(_list_notes(table, len(columns), len(rows)))),
    )
    for before, row in zip((None, *shown), shown, strict=False):
        if len(names) > 1 and (before is None or before.arm.model != row.arm.model):
            grid.add_row(Text(show_safely(names[row.arm.model]), style="italic"))
        grid.add_row(Text(show_safely(row.name)), *(_show(row, place) for place in columns))
    return grid


def _list_notes(table: DefenceTable, columns: int, rows: int) -> list[str]:
    cmrm = next((row.cmrm for row in table.rows if row.cmrm), "")
    against = f" | from {show_safely(cmrm)}" if cmrm else ""
    lines = [f"Change from plain{against}, in points; * p < 0.05, corrected"]
    if columns < len(table.columns):
        lines.append(f"{columns} of {len(table.columns)} columns; report.md has all.")
    if rows > MOST_ROWS:
        lines.append(f"{MOST_ROWS} of {rows} rows; report.md has all.")
    return lines


def _show(row: DefenceRow, place: int) -> str:
    cell = row.cells[place]
    if cell.from_plain is None and cell.from_cmrm is None:
        return NOT_MEASURED
    return " | ".join(_show_change(one) for one in (cell.from_plain, cell.from_cmrm))


def _show_change(change: Comparison | None) -> str:
    if change is None:
        return "– "
    text = signed_percent(change.change) if change.kind == "mcnemar" else signed(change.change)
    return text + ("*" if is_significant(change) else " ")


def _cut(line: str) -> str:
    return line if len(line) <= WIDEST_TITLE else f"{line[: WIDEST_TITLE - 1]}…"
