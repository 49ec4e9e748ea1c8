"""Print the rows of a query to a terminal: a table if it fits the width, else one record per row."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TYPE_CHECKING, TypeAlias

import pyarrow as pa
from rich.console import Console
from rich.rule import Rule
from rich.text import Text

from flows.sql.values import MAX_CELL_TEXT, is_number, to_cells
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, fit_widths, make_table, measure_text

if TYPE_CHECKING:
    from rich.table import Table

# Most rows printed, and longest text in a cell of a table.
MAX_ROWS = 1000
MAX_CELL = 200
NULL = "NULL"
# Narrowest column in which text is folded.
NARROWEST = 16
# Width of lines in a file.
FILE_WIDTH = 1000

Row: TypeAlias = Sequence[str | None]


def take_rows(batches: Iterable[pa.RecordBatch]) -> list[Row]:
    """Take the cells of the first rows, and at least one more than are printed if there are more."""
    rows: list[Row] = []
    for batch in batches:
        rows += zip(*(to_cells(column) for column in batch.slice(0, MAX_ROWS + 1).columns), strict=True)
        if len(rows) > MAX_ROWS:
            break
    return rows


def print_grid(rows: Sequence[Row], schema: pa.Schema, stream: IO[bytes]) -> None:
    """Print the first MAX_ROWS rows, and note if there are more or if text was truncated."""
    console = Console() if stream is sys.stdout.buffer else Console(file=io.StringIO(), width=FILE_WIDTH)
    names = [show_safely(name) for name in schema.names]
    numeric = [is_number(field.type) for field in schema]
    shown = rows[:MAX_ROWS]
    truncated = [tuple(cut_cell(cell, MAX_CELL) for cell in row) for row in shown]
    widths = _find_widths(names, numeric, truncated, console.width)
    if widths is None:
        _print_records(console, names, shown)
    else:
        console.print(_fill_table(names, numeric, truncated, widths))
    if not rows:
        console.print("no rows")
    if len(rows) > MAX_ROWS:
        console.print(
            f"… only the first {MAX_ROWS} rows are shown; narrow the query, or --format csv has all."
        )
    longest = MAX_CELL if widths else MAX_CELL_TEXT
    if any(cell is not None and len(cell) > longest for row in shown for cell in row):
        console.print(f"… texts are cut at {longest} characters; --format csv has all.")
    if isinstance(console.file, io.StringIO):
        stream.write(console.file.getvalue().encode("utf-8"))


def _find_widths(
    names: Sequence[str], numeric: Sequence[bool], rows: Sequence[Row], width: int
) -> list[int] | None:
    """Find column widths that fit the line width, None if they do not; numbers are never folded."""
    wanted = [
        max(measure_text(name), *(_measure(row[index]) for row in rows)) if rows else measure_text(name)
        for index, name in enumerate(names)
    ]
    narrowest = [
        want if number else max(NARROWEST, measure_text(name))
        for want, number, name in zip(wanted, numeric, names, strict=True)
    ]
    return fit_widths(wanted, narrowest, width=width)


def _measure(cell: str | None) -> int:
    return measure_text(NULL if cell is None else cell)


def cut_cell(cell: str | None, longest: int) -> str | None:
    """Cut a cell of a result to `longest` characters, with a mark; None is NULL."""
    return cell if cell is None or len(cell) <= longest else f"{cell[:longest]}…"


def _show(cell: str | None) -> Text:
    return Text(NULL, style="dim italic") if cell is None else Text(cell)


def _fill_table(
    names: Sequence[str], numeric: Sequence[bool], rows: Sequence[Row], widths: Sequence[int]
) -> Table:
    table = make_table(
        TableColumn(title=Text(name), width=width, no_wrap=number, justify="right" if number else "left")
        for name, number, width in zip(names, numeric, widths, strict=True)
    )
    for row in rows:
        table.add_row(*map(_show, row))
    return table


def _print_records(console: Console, names: Sequence[str], rows: Sequence[Row]) -> None:
    columns = TableColumn(width=min(measure_text(*names), console.width // 2), style="bold"), TableColumn()
    for number, row in enumerate(rows, start=1):
        console.print(Rule(f"row {number}", align="left", characters="─", style="dim"))
        record = make_table(columns)
        for name, cell in zip(names, row, strict=True):
            record.add_row(Text(name), _show(cut_cell(cell, MAX_CELL_TEXT)))
        console.print(record)
