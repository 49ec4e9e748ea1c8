"""Terminal output of a finished run: main table, parse errors, quarantine, judge agreement, headline, report path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flows.report.tables.imported import describe_left_out
from flows.report.tables.judges import describe_agreement, describe_spend
from flows.report.tables.reasoning import describe_no_final, make_reasoning_table
from flows.report.tables.text_alone import make_questions_table
from flows.report.tables.twins import make_twins_table
from flows.report.writers.terminal import describe_parse_errors, describe_quarantine, render_grid
from flows.report.writers.terminal_defences import render_defences
from flows.report.writers.terminal_directions import render_directions
from flows.report.writers.terminal_parts import render_parts
from flows.report.writers.terminal_text import render_small_tables
from flows.terminal.safe_text import show_safely

if TYPE_CHECKING:
    from flows.run import Result


def print_result(console: Console, result: Result) -> None:
    """Print a run's result for a terminal of 80 columns."""
    summary = result.summary
    if summary.table.rows:
        console.print(render_grid(summary.table))
        if summary.defences is not None:
            console.print()
            console.print(render_defences(summary.defences))
        for line in (describe_parse_errors(summary.judges), *describe_no_final(summary.reasoning)):
            console.print(Text(show_safely(line)))
    for grid in render_small_tables(
        [
            make_questions_table(summary.questions),
            make_twins_table(summary.twins),
            make_reasoning_table(summary.reasoning),
        ]
    ):
        console.print()
        console.print(grid)
    grids = (*render_parts(summary.parts), *render_directions(summary.directions, summary.turned))
    for grid in grids:
        console.print()
        console.print(grid)
    lines = (
        describe_quarantine(summary.quarantined),
        *describe_left_out(summary.imported),
        describe_agreement(summary.agreement),
        describe_spend(summary.judges),
    )
    for line in filter(None, lines):
        console.print(Text(show_safely(line)))
    console.print()
    console.print(Text(show_safely(summary.headline)))
    console.print(Text(f"Report: {result.report}"), soft_wrap=True)
