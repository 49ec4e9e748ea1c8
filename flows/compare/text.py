"""Comparison of two runs for a terminal of 80 columns, verdict last; control characters in stored text are escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flows.compare.category_grid import print_categories
from flows.compare.grid import WIDEST_NAME, print_changes
from flows.compare.words import MOVES, count_moves, describe_shift, describe_unpaired, put_worst_first
from flows.report.number_format import plain
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.compare.changes import Flip
from tasks.compare.result import ComparedRun, RunComparison
from tasks.compare.shift_changes import ShiftChange
from tasks.report.outcomes import Arm

if TYPE_CHECKING:
    from rich.table import Table as Grid

WIDEST_JUDGE = 16
MOST_FLIPS = 6
MOST_COUNTS = 20
MOST_NOTES = 8
# Blocks in one line: each takes six columns.
BLOCKS_A_LINE = 11


def print_comparison(console: Console, comparison: RunComparison) -> None:
    """Print both runs, the changes, also by category, unpaired verdicts, Δ by block, flips and the verdict."""
    console.print(_head_runs(comparison.before, comparison.after))
    console.print()
    if comparison.changes:
        print_changes(console, comparison)
        console.print()
    if comparison.categories:
        print_categories(console, comparison.categories)
        console.print()
    for line in describe_unpaired(comparison.unpaired):
        console.print(_safe(line))
    for note in comparison.notes[:MOST_NOTES]:
        console.print(_safe(f"{note}."))
    if len(comparison.notes) > MOST_NOTES:
        console.print(_safe(f"… and {len(comparison.notes) - MOST_NOTES} more such notes (-o FILE.json)."))
    for shift in comparison.shifts:
        console.print()
        _print_shift(console, shift)
    console.print()
    _print_flips(console, comparison)
    console.print()
    console.print(_safe(comparison.verdict, style="bold red" if comparison.regressed else "bold"))


def _head_runs(before: ComparedRun, after: ComparedRun) -> Grid:
    grid = make_table([TableColumn(style="bold"), TableColumn()])
    for side, run in (("Before", before), ("After", after)):
        for number, model in enumerate(run.models):
            grid.add_row("" if number else side, _safe(str(model["name"])))
        started = run.created_at[:16].replace("T", " ")
        grid.add_row("", _safe(f"run {run.run_id}, begun {started} UTC", style="dim"))
    return grid


def _print_shift(console: Console, shift: ShiftChange) -> None:
    console.print(_safe(describe_shift(shift)))
    for start in range(0, len(shift.blocks), BLOCKS_A_LINE):
        blocks = shift.blocks[start : start + BLOCKS_A_LINE]
        grid = make_table(
            [TableColumn(style="dim"), *(TableColumn(justify="right", narrowest=4) for _ in blocks)]
        )
        grid.add_row("block", *(str(one.block) for one in blocks))
        grid.add_row("cosine", *(plain(one.cosine) or "–" for one in blocks))
        ratios = [one.after / one.before if one.before else None for one in blocks]
        grid.add_row("length", *("–" if one is None else f"×{one:.1f}" for one in ratios))
        console.print(grid)


def _print_flips(console: Console, comparison: RunComparison) -> None:
    flips = comparison.flips
    if not flips:
        console.print("No sample changed sides.")
        return
    names = {one.arm: one.name for one in comparison.changes}
    _print_counts(console, flips, names)
    several = len({one.arm.model for one in flips}) > 1
    for one in put_worst_first(comparison)[:MOST_FLIPS]:
        model = f"{one.arm.model}, " if several else ""
        line = f"{one.before} → {one.after}: {one.dataset}/{one.sample_id} ({model}{names[one.arm]}, {one.judge})"
        console.print(_safe(line), soft_wrap=True)
    if len(flips) > MOST_FLIPS:
        console.print(_safe(f"… and {len(flips) - MOST_FLIPS:,} more; -o FILE.csv has all."))


def _print_counts(console: Console, flips: Sequence[Flip], names: Mapping[Arm, str]) -> None:
    """Print how many samples flipped from which verdict to which, by arm and judge."""
    found = {(one.before, one.after) for one in flips}
    moves = [move for move in MOVES if move in found]
    counts = count_moves(flips)
    models = dict.fromkeys(arm.model for arm, _ in counts)
    rows = [*counts][:MOST_COUNTS]
    grid = make_table(
        [
            TableColumn(title="Changed sides", widest=WIDEST_NAME),
            TableColumn(title="Judge", widest=WIDEST_JUDGE),
            *(TableColumn(title="\n→ ".join(move), justify="right") for move in moves),
        ]
    )
    for last, (arm, judge) in zip((None, *rows), rows, strict=False):
        if len(models) > 1 and (last is None or last[0].model != arm.model):
            grid.add_row(_safe(arm.model, style="italic"))
        cells = (f"{counts[arm, judge][move]:,}" for move in moves)
        grid.add_row(_safe(names[arm]), _safe(judge), *cells)
    console.print(grid)
    if len(counts) > len(rows):
        console.print(_safe(f"{len(rows)} of {len(counts)} rows; -o FILE.csv has all."))


def _safe(text: str, style: str = "") -> Text:
    return Text(show_safely(text), style=style)
