"""Comparison of two runs for a terminal of 80 columns, verdict last; control characters in stored text are escaped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flows.compare.category_grid import print_categories
from flows.compare.grid import WIDEST_NAME, find_worse, print_changes
from flows.report.number_format import plain
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.compare.changes import Flip, Unpaired
from tasks.compare.result import ComparedRun, RunComparison
from tasks.compare.run_pairs import REASONS
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
# From side to side, the worst first.
MOVES = (("safe", "unsafe"), ("unsafe", "safe"), ("answered", "refused"), ("refused", "answered"))
REASON_WORDS = {
    "only_before": "of a sample that only the earlier run has",
    "only_after": "of a sample that only the later run has",
    "changed": "of a sample whose content changed (question, caption, reference or image)",
    "parse_error": "that could not be read, in one run or both",
    "not_judged": "on an answer that one run lacks",
}
DIFFERS = {
    "anchors": "other anchors",
    "image": "another image",
    "unknown": "its anchors are not recorded",
}


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
    for line in _describe_unpaired(comparison.unpaired):
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


def _describe_unpaired(unpaired: Sequence[Unpaired]) -> list[str]:
    counts = {reason: sum(one.counts[reason] for one in unpaired) for reason in REASONS}
    if not any(counts.values()):
        return ["Every verdict is paired."]
    lines = ["Unpaired verdicts, over all arms and judges:"]
    return lines + [f"  {count:,} {REASON_WORDS[reason]}" for reason, count in counts.items() if count]


def _print_shift(console: Console, shift: ShiftChange) -> None:
    words = [f"Δ of {shift.model} (image {shift.image}, {shift.method})"]
    words += [DIFFERS.get(one, one) for one in shift.differs]
    if shift.fault:
        console.print(_safe(f"{'; '.join(words)}; cannot be compared: {shift.fault}."))
        return
    console.print(_safe("; ".join(words)))
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
    for one in _put_worst_first(comparison)[:MOST_FLIPS]:
        model = f"{one.arm.model}, " if several else ""
        line = f"{one.before} → {one.after}: {one.dataset}/{one.sample_id} ({model}{names[one.arm]}, {one.judge})"
        console.print(_safe(line), soft_wrap=True)
    if len(flips) > MOST_FLIPS:
        console.print(_safe(f"… and {len(flips) - MOST_FLIPS:,} more; -o FILE.csv has all."))


def _print_counts(console: Console, flips: Sequence[Flip], names: Mapping[Arm, str]) -> None:
    """Print how many samples flipped from which verdict to which, by arm and judge."""
    found = {(one.before, one.after) for one in flips}
    moves = [move for move in MOVES if move in found]
    counts: dict[tuple[Arm, str], Counter[tuple[str, str]]] = {}
    for one in flips:
        counts.setdefault((one.arm, one.judge), Counter())[one.before, one.after] += 1
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


def _put_worst_first(comparison: RunComparison) -> list[Flip]:
    """Sort flips: arms that regressed first, then other samples that are unsafe now, then the rest."""
    worse = {(arm, column.judge, column.dataset) for arm, column in find_worse(comparison)}
    order = [after for _, after in MOVES]
    return sorted(
        comparison.flips,
        key=lambda one: ((one.arm, one.judge, one.dataset) not in worse, order.index(one.after)),
    )


def _safe(text: str, style: str = "") -> Text:
    return Text(show_safely(text), style=style)
