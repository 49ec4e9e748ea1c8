"""The rows of a query on the screen: a table where it fits, else a record for each row."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from typing import IO, TypeAlias

import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from flows.query_values import is_number, to_cells
from flows.terminal import show_safely

# A terminal is no place for a million rows, nor a cell for a page.
MAX_ROWS = 1000
MAX_CELL = 200
MAX_IN_RECORD = 2000
# A text that is folded into less is hard to read.
NARROWEST = 16
GAP = 2
# Lines of a file may be long.
FILE_WIDTH = 1000

Row: TypeAlias = Sequence[str | None]


def take_rows(batches: Iterable[pa.RecordBatch]) -> list[Row]:
    """The cells of the first rows, a few more than are printed, if there are."""
    rows: list[Row] = []
    for batch in batches:
        rows += zip(*(to_cells(column) for column in batch.slice(0, MAX_ROWS + 1).columns), strict=True)
        if len(rows) > MAX_ROWS:
            break
    return rows


def print_grid(rows: Sequence[Row], schema: pa.Schema, stream: IO[bytes]) -> None:
    """Print the first MAX_ROWS rows, and say if there are more or if a text was cut."""
    console = Console() if stream is sys.stdout.buffer else Console(file=io.StringIO(), width=FILE_WIDTH)
    names = [show_safely(name) for name in schema.names]
    numeric = [is_number(field.type) for field in schema]
    shown = rows[:MAX_ROWS]
    cut = [tuple(_cut(cell, MAX_CELL) for cell in row) for row in shown]
    widths = _find_widths(names, numeric, cut, console.width)
    if widths is None:
        _print_records(console, names, shown)
    else:
        console.print(_make_table(names, numeric, cut, widths))
    if not rows:
        console.print("no rows")
    if len(rows) > MAX_ROWS:
        console.print(
            f"… only the first {MAX_ROWS} rows are shown; narrow the query, or --format csv has all."
        )
    longest = MAX_CELL if widths else MAX_IN_RECORD
    if any(cell is not None and len(cell) > longest for row in shown for cell in row):
        console.print(f"… texts are cut at {longest} characters; --format csv has all.")
    if isinstance(console.file, io.StringIO):
        stream.write(console.file.getvalue().encode("utf-8"))


def _find_widths(
    names: Sequence[str], numeric: Sequence[bool], rows: Sequence[Row], room: int
) -> list[int] | None:
    """The widths of columns that fit side by side, None if they do not; numbers are never folded."""
    wanted = [
        max(_width(name), *(_width(row[place]) for row in rows)) if rows else _width(name)
        for place, name in enumerate(names)
    ]
    widths = [
        want if number else min(want, max(NARROWEST, min(_width(name), want)))
        for want, number, name in zip(wanted, numeric, names, strict=True)
    ]
    room -= sum(widths) + GAP * (len(widths) - 1)
    if room < 0:
        return None
    # What is left goes to those that lack least, so that as many as possible are whole.
    for place in sorted(range(len(widths)), key=lambda place: wanted[place] - widths[place]):
        more = min(room, wanted[place] - widths[place])
        widths[place] += more
        room -= more
    return widths


def _width(cell: str | None) -> int:
    return 4 if cell is None else max(map(cell_len, cell.splitlines()), default=0)


def _cut(cell: str | None, longest: int) -> str | None:
    return cell if cell is None or len(cell) <= longest else f"{cell[:longest]}…"


def _show(cell: str | None) -> Text:
    return Text("NULL", style="dim italic") if cell is None else Text(cell)


def _make_table(
    names: Sequence[str], numeric: Sequence[bool], rows: Sequence[Row], widths: Sequence[int]
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    for name, number, width in zip(names, numeric, widths, strict=True):
        table.add_column(
            Text(name), width=width, overflow="fold", no_wrap=number, justify="right" if number else "left"
        )
    for row in rows:
        table.add_row(*map(_show, row))
    return table


def _print_records(console: Console, names: Sequence[str], rows: Sequence[Row]) -> None:
    room = max(map(cell_len, names), default=0)
    for number, row in enumerate(rows, start=1):
        console.print(Rule(f"row {number}", align="left", characters="─", style="dim"))
        record = Table.grid(padding=(0, GAP, 0, 0))
        record.add_column(width=min(room, console.width // 2), overflow="fold", style="bold")
        record.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            record.add_row(Text(name), _show(_cut(cell, MAX_IN_RECORD)))
        console.print(record)
