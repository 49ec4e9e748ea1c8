"""Table of the changes between two runs for a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from cmrm.statistics.paired_tests import Comparison
from flows.compare.words import find_worse
from flows.report.number_format import NOT_MEASURED, percent, plain, signed, signed_percent
from flows.report.tables.main import TITLES
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, choose_columns, make_table, measure_text
from tasks.compare.changes import Change
from tasks.compare.result import RunComparison
from tasks.report.outcomes import Column

WIDEST_NAME = 24
WIDEST_TITLE = 18
MOST_ROWS = 40
WORSE = "*"


def print_changes(console: Console, comparison: RunComparison) -> None:
    """Print a row per arm, a column per measure: before → after, and below it the change with its interval."""
    changes = comparison.changes
    arms = list(dict.fromkeys(one.arm for one in changes))
    cells = {(one.arm, one.column): one for one in changes}
    marks = dict.fromkeys(find_worse(comparison), WORSE)
    columns = list(dict.fromkeys(one.column for one in changes))
    shown = _choose_columns(columns, changes, [column for _, column in marks])
    rows = arms[:MOST_ROWS]
    grid = make_table(
        [
            TableColumn(widest=WIDEST_NAME),
            *(TableColumn(title=_title(one, columns), justify="right", no_wrap=True) for one in shown),
        ]
    )
    notes = [
        f"% before → after{_count_pairs(changes)}; change in points [95 % interval]",
        f"{WORSE} worse than allowed, and chance does not explain it" if marks else "",
        f"{len(shown)} of {len(columns)} columns; -o FILE.json has all." if len(shown) < len(columns) else "",
        f"{len(rows)} of {len(arms)} rows; -o FILE.json has all." if len(rows) < len(arms) else "",
    ]
    models = dict.fromkeys(arm.model for arm in arms)
    for last, arm in zip((None, *rows), rows, strict=False):
        if len(models) > 1 and (last is None or last.model != arm.model):
            grid.add_row(Text(show_safely(arm.model), style="italic"))
        name = next(one.name for one in changes if one.arm == arm)
        grid.add_row(
            Text(show_safely(name)),
            *(write_cell(cells.get((arm, column)), marks.get((arm, column), "")) for column in shown),
        )
    console.print(grid)
    # Not as the table's caption, which would be as narrow as the table.
    console.print(Text("\n".join(filter(None, notes)), style="italic"))


def _count_pairs(changes: Sequence[Change]) -> str:
    """Format the number of pairs: one number, or the minimum and maximum."""
    counts = sorted({one.change.n for one in changes})
    return f" in {'–'.join(f'{count:,}' for count in dict.fromkeys((counts[0], counts[-1])))} pairs"


def _choose_columns(
    columns: Sequence[Column], changes: Sequence[Change], worse: Sequence[Column]
) -> list[Column]:
    """Choose as many columns as fit the width: regressions first, then one of each kind, then the others."""
    firsts = {column.kind: column for column in reversed(columns)}
    order = sorted(columns, key=lambda one: (one not in worse, firsts[one.kind] != one))
    widths = [
        measure_text(
            _title(column, columns), *(write_cell(one, WORSE) for one in changes if one.column == column)
        )
        for column in order
    ]
    models = {one.arm.model for one in changes}
    names = [*(one.name for one in changes), *(models if len(models) > 1 else ())]
    first = min(WIDEST_NAME, measure_text(*map(show_safely, names)))
    chosen = {order[place] for place in choose_columns(first, widths)}
    return [column for column in columns if column in chosen]


def _title(column: Column, columns: Sequence[Column]) -> Text:
    judges = {one.judge for one in columns if one.kind == column.kind}
    lines = [TITLES[column.kind], column.dataset, f"({column.judge})" if len(judges) > 1 else ""]
    return Text("\n".join(_cut(show_safely(line)) for line in lines if line))


def _cut(line: str) -> str:
    return line if len(line) <= WIDEST_TITLE else f"{line[: WIDEST_TITLE - 1]}…"


def write_cell(one: Change | None, mark: str) -> Text:
    """Format before → after with its mark, and below it the change with its interval; '' for no change at all."""
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
    # Round outwards, so that the interval never narrows; 1e-9 absorbs the rounding error of a whole number.
    low = math.floor(100 * (change.low or 0.0) + 1e-9)
    high = math.ceil(100 * (change.high or 0.0) - 1e-9)
    return f"{signed_percent(change.change)} [{low:+d}, {high:+d}]".replace("-", "−").replace("+0,", "0,")
