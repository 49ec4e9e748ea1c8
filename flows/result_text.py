"""What a finished run prints: the main table, what is in no rate, how judges agree, the headline, and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flows.judge_sheets import describe_agreement, describe_spend
from flows.render import describe_parse_errors, describe_quarantine, render_grid
from flows.terminal import show_safely
from tasks.table import Table

if TYPE_CHECKING:
    from flows.run import Result


def print_result(console: Console, result: Result) -> None:
    """Print a run's outcome for a terminal of 80 columns."""
    summary = result.summary
    table = Table.from_json(summary["table"])
    if table.rows:
        console.print(render_grid(table))
        console.print(Text(show_safely(describe_parse_errors(summary["judges"]))))
    lines = (
        describe_quarantine(summary["quarantined"]),
        describe_agreement(summary["agreement"]),
        describe_spend(summary["judges"]),
    )
    for line in filter(None, lines):
        console.print(Text(show_safely(line)))
    console.print()
    console.print(Text(show_safely(summary["headline"])))
    console.print(Text(f"Report: {result.report}"), soft_wrap=True)
