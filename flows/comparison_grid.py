"""The changes between two runs as a table for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from cmrm.comparisons import Comparison
from cmrm.regression import judge_change
from flows.main_sheets import TITLES
from flows.terminal import show_safely
from flows.wording import NOT_MEASURED, percent, plain, signed, signed_percent
from tasks.outcomes import Column, Way
from tasks.run_changes import Change
from tasks.run_comparison import RunComparison

WIDTH = 80
GAP = 2
WIDEST_NAME = 24
WIDEST_TITLE = 18
MOST_ROWS = 40
WORSE = "*"


def print_changes(console: Console, comparison: RunComparison) -> None:
    """A row a way of asking, a column a measure: before → after, and below it the change with its bounds."""
    changes = comparison.changes
    ways = list(dict.fromkeys(one.way for one in changes))
    cells = {(one.way, one.column): one for one in changes}
    marks = dict.fromkeys(find_worse(comparison), WORSE)
    columns = list(dict.fromkeys(one.column for one in changes))
    shown = _choose_columns(columns, changes, [column for _, column in marks])
    rows = ways[:MOST_ROWS]
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    notes = [
        f"% before → after{_count_pairs(changes)}; change in points [95 % interval]",
        f"{WORSE} worse than allowed, and chance does not explain it" if marks else "",
        f"{len(shown)} of {len(columns)} columns; -o FILE.json has all." if len(shown) < len(columns) else "",
        f"{len(rows)} of {len(ways)} rows; -o FILE.json has all." if len(rows) < len(ways) else "",
    ]
    grid.add_column("", max_width=WIDEST_NAME, overflow="fold")
    for column in shown:
        grid.add_column(_title(column, columns), justify="right", no_wrap=True)
    models = dict.fromkeys(way.model for way in ways)
    for last, way in zip((None, *rows), rows, strict=False):
        if len(models) > 1 and (last is None or last.model != way.model):
            grid.add_row(Text(show_safely(way.model), style="italic"))
        name = next(one.name for one in changes if one.way == way)
        grid.add_row(
            Text(show_safely(name)),
            *(_write_cell(cells.get((way, column)), marks.get((way, column), "")) for column in shown),
        )
    console.print(grid)
    # Not as the table's caption, which would be as narrow as the table.
    console.print(Text("\n".join(filter(None, notes)), style="italic"))


def _count_pairs(changes: Sequence[Change]) -> str:
    """In how many pairs: one number, or the fewest and the most."""
    counts = sorted({one.change.n for one in changes})
    return f" in {'–'.join(f'{count:,}' for count in dict.fromkeys((counts[0], counts[-1])))} pairs"


def find_worse(comparison: RunComparison) -> list[tuple[Way, Column]]:
    """The changes that regressed."""
    judged = (
        (one, judge_change(one.column.kind, one.change, comparison.thresholds)) for one in comparison.changes
    )
    return [(one.way, one.column) for one, found in judged if found is not None and found.regressed]


def _choose_columns(
    columns: Sequence[Column], changes: Sequence[Change], worse: Sequence[Column]
) -> list[Column]:
    """As many columns as fit: what regressed first, then one of each kind, then the others."""
    firsts = {column.kind: column for column in reversed(columns)}
    order = sorted(columns, key=lambda one: (one not in worse, firsts[one.kind] != one))
    room = WIDTH - min(WIDEST_NAME, max(len(one.name) for one in changes))
    chosen: list[Column] = []
    for column in order:
        lines = [*_title(column, columns).plain.splitlines()]
        for one in changes:
            if one.column == column:
                lines += _write_cell(one, WORSE).plain.splitlines()
        room -= GAP + max(map(len, lines))
        if chosen and room < 0:
            break
        chosen.append(column)
    return [column for column in columns if column in chosen]


def _title(column: Column, columns: Sequence[Column]) -> Text:
    judges = {one.judge for one in columns if one.kind == column.kind}
    lines = [TITLES[column.kind], column.dataset, f"({column.judge})" if len(judges) > 1 else ""]
    return Text("\n".join(_cut(show_safely(line)) for line in lines if line))


def _cut(line: str) -> str:
    return line if len(line) <= WIDEST_TITLE else f"{line[: WIDEST_TITLE - 1]}…"


def _write_cell(one: Change | None, mark: str) -> Text:
    if one is None or one.change.change is None:
        return Text(NOT_MEASURED if one else "")
    change = one.change
    show = plain if change.kind == "bootstrap" else percent
    return Text.assemble(
        (f"{mark}{show(change.before)} → {show(change.after)}", "bold" if mark else ""),
        "\n",
        (_write_change(change), "bold" if mark else "dim"),
    )


def _write_change(change: Comparison) -> str:
    if change.kind == "bootstrap":
        bounds = f" [{signed(change.low)}, {signed(change.high)}]" if change.low is not None else ""
        return f"{signed(change.change)}{bounds}"
    # Outwards, so that a bound is never narrower than it was; 1e-9 forgives the last bit of a whole number.
    low = math.floor(100 * (change.low or 0.0) + 1e-9)
    high = math.ceil(100 * (change.high or 0.0) - 1e-9)
    return f"{signed_percent(change.change)} [{low:+d}, {high:+d}]".replace("-", "−").replace("+0,", "0,")
