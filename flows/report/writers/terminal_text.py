"""Small tables of a report for a terminal: those of reasoning traces, questions alone and twins."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from rich.text import Text

from flows.report.document import ReportCell, ReportTable
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table

if TYPE_CHECKING:
    from rich.table import Table as Grid

MOST_ROWS = 16
WIDEST_NAME = 22


def render_small_tables(tables: Iterable[ReportTable | None]) -> Iterator[Grid]:
    """Render tables of at most seven columns for a terminal of 80 columns; the report has all rows."""
    for table in tables:
        if table is None or not table.length:
            continue
        more = f"; {MOST_ROWS} of {table.length} rows, report.md has all" if table.length > MOST_ROWS else ""
        grid = make_table(
            [
                TableColumn(title=heading.title, justify="right")
                if heading.numeric
                else TableColumn(title=heading.title, widest=WIDEST_NAME)
                for heading in table.headings
            ],
            caption=Text(show_safely(f"{table.title}, in % [95 % interval]{more}")),
        )
        shown = 0
        for group in table.row_groups:
            if group.title and shown < MOST_ROWS:
                grid.add_row(Text(show_safely(group.title), style="italic"))
            for row in group.rows[: max(0, MOST_ROWS - shown)]:
                grid.add_row(*(Text(show_safely(_write(cell))) for cell in row))
                shown += 1
        yield grid


def _write(cell: ReportCell) -> str:
    """The number over its interval, which together are too wide for a line."""
    return "\n".join(filter(None, (cell.text, cell.interval)))
