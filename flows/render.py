"""The main table for a terminal, and one-line descriptions of what is in no rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from cmrm.statistics import Mean
from flows.document import shorten_models
from flows.main_sheets import TITLES, explain_unmeasured, title_column
from flows.terminal import show_safely
from flows.wording import NOT_MEASURED
from tasks.outcomes import NO_SCORE, Column
from tasks.table import Cell, Row, Table

WIDTH = 80
GAP = 2
MOST_ROWS = 40
WIDEST_NAME = 30
WIDEST_TITLE = 16
# Which kinds of columns find room first.
FIRST = ("unsafe", "over_refusal", "utility", "score")


def render_grid(table: Table) -> Grid:
    """The main table for a terminal of 80 columns: percentages with 95 % intervals, a block of rows a model.

    Of more columns than fit it shows the first safety columns, utility and over-refusal; the caption says so.
    """
    names = shorten_models(table.models())
    rows = table.rows[:MOST_ROWS]
    columns = _choose_columns(table, rows)
    grid = Grid(
        box=None,
        pad_edge=False,
        header_style="bold",
        caption=_caption(table, columns),
        caption_justify="left",
    )
    grid.add_column("", max_width=WIDEST_NAME, overflow="fold")
    for place in columns:
        grid.add_column(_title(table, place), justify="right", no_wrap=True)
    for before, row in zip((None, *rows), rows, strict=False):
        if len(names) > 1 and (before is None or before.way.model != row.way.model):
            grid.add_row(Text(show_safely(names[row.way.model]), style="italic"))
        grid.add_row(
            Text(show_safely(row.name)),
            *(_short(row.cells[place]) for place in columns),
            style="bold" if row.way.intervention else "",
        )
    return grid


def describe_quarantine(quarantined: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many rows were set aside, by stage."""
    counts: dict[str, int] = {}
    for one in quarantined:
        counts[one["stage"]] = counts.get(one["stage"], 0) + one["rows"]
    if not counts:
        return "Quarantined rows: none."
    by_stage = ", ".join(f"{rows} in {stage}" for stage, rows in counts.items())
    return f"Quarantined rows: {sum(counts.values())} ({by_stage})."


def describe_parse_errors(judges: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many verdicts could not be read, by which of several judges; they are in no rate."""
    errors = {one["name"]: one["parse_errors"] for one in judges if one["parse_errors"]}
    if not errors:
        return "Parse errors: none."
    by = (
        f" ({', '.join(f'{count:,} by {name}' for name, count in errors.items())})" if len(judges) > 1 else ""
    )
    return f"Parse errors: {sum(errors.values()):,}{by}, counted in no rate."


def _choose_columns(table: Table, rows: Sequence[Row]) -> list[int]:
    """The places of the columns that fit: one of each kind first, then as many more as there is room for."""
    names = [*(row.name for row in rows), *shorten_models(table.models()).values()]
    room = WIDTH - min(WIDEST_NAME, max(map(len, names), default=0))
    places = range(len(table.columns))
    firsts = {column.kind: place for place, column in reversed([*enumerate(table.columns)])}
    chosen: list[int] = []
    # Of further columns those by the same judge come first: the next data set rather than the next opinion.
    judges = {table.columns[place].judge for place in firsts.values()}
    more = sorted(
        set(places) - set(firsts.values()), key=lambda place: table.columns[place].judge not in judges
    )
    for place in [*(firsts[kind] for kind in FIRST if kind in firsts), *more]:
        texts = [
            *_title(table, place).plain.splitlines(),
            *(_short(row.cells[place]) for row in rows),
        ]
        width = GAP + max(map(len, texts))
        if width <= room or not chosen:
            chosen.append(place)
            room -= width
    return sorted(chosen)


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
    # Outwards, so that a bound is never narrower than it was; 1e-9 forgives the last bit of a whole number.
    bounds = math.floor(100 * low + 1e-9), math.ceil(100 * high - 1e-9)
    return f"{100 * value.value:.1f} [{bounds[0]}–{bounds[1]}]"
