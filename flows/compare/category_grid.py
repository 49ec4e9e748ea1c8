"""Table of the categories whose rates changed between two runs, for a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from flows.compare.grid import write_cell
from flows.compare.words import sort_categories
from flows.report.number_format import write_p
from flows.report.tables.categories import SMALL
from flows.report.tables.main import TITLES
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.compare.category_changes import CategoryChange
from tasks.report.categories import FEW

WIDEST_CATEGORY = 24
WIDEST_ARM = 18
MOST_ROWS = 8
# As wide as +100.0 [−100, +100].
CHANGE = 19


def print_categories(console: Console, categories: Sequence[CategoryChange]) -> None:
    """Print the rates by category that changed, the worst first, and how many there are."""
    changed = [one for one in sort_categories(categories) if one.worsening]
    if not changed:
        console.print(Text(f"By category none of {len(categories):,} rates changed."))
        return
    rows = changed[:MOST_ROWS]
    models = {one.change.arm.model for one in categories}
    grid = make_table(
        [
            TableColumn(title="By category", widest=WIDEST_CATEGORY, no_wrap=True),
            TableColumn(title="Arm", widest=WIDEST_ARM),
            TableColumn(title="% before → after", justify="right", narrowest=CHANGE, no_wrap=True),
            TableColumn(title="n", justify="right", no_wrap=True),
            TableColumn(title="p", justify="right", no_wrap=True),
        ]
    )
    for one in rows:
        change = one.change
        measure = f"{change.column.dataset}, {TITLES[change.column.kind].lower()}"
        arm = [change.name, *([change.arm.model] if len(models) > 1 else [])]
        grid.add_row(
            Text("\n".join(map(show_safely, (one.category, measure)))),
            Text("\n".join(map(show_safely, arm))),
            write_cell(change, ""),
            f"{change.change.n:,}{SMALL if one.is_small else ''}",
            write_p(change.change.p_adjusted).text,
        )
    console.print(grid)
    notes = [
        f"{len(rows)} of {len(changed):,} changed, of {len(categories):,} rates by category; -o FILE.json has all.",
        f"p corrected by Holm over these {len(categories):,}; the verdict does not depend on them.",
        f"{SMALL} fewer than {FEW} pairs" if any(one.is_small for one in rows) else "",
    ]
    console.print(Text("\n".join(filter(None, notes)), style="italic"))
