"""A comparison of two runs for a terminal of 80 columns, the verdict last; every text from the store made safe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from flows.comparison_grid import MOST_ROWS, WIDEST_NAME, render_changes
from flows.terminal import show_safely
from flows.wording import plain
from tasks.outcomes import Way
from tasks.run_changes import Flip, Unpaired
from tasks.run_comparison import ComparedRun, RunComparison
from tasks.run_pairs import REASONS
from tasks.shift_changes import ShiftChange

WIDEST_MODEL = 30
MOST_FLIPS = 6
MOST_NOTES = 8
# Blocks side by side: each takes six columns.
BLOCKS_A_LINE = 11
REASON_WORDS = {
    "only_before": "of a sample that only the earlier run has",
    "only_after": "of a sample that only the later run has",
    "changed": "of a sample that is another now (question, caption, reference or image)",
    "parse_error": "that could not be read, in one run or both",
    "not_judged": "on an answer that one run lacks",
}
DIFFERS = {
    "anchors": "other anchors",
    "image": "another image",
    "unknown": "what it was measured on is not known any more",
}


def print_comparison(console: Console, comparison: RunComparison) -> None:
    """Both runs, the changes, what could not be paired, Δ, the flipped samples, and the verdict."""
    console.print(_head_runs(comparison.before, comparison.after))
    console.print()
    if comparison.changes:
        console.print(render_changes(comparison))
        console.print()
    for line in _describe_unpaired(comparison.unpaired):
        console.print(_safe(line))
    for note in comparison.notes[:MOST_NOTES]:
        console.print(_safe(f"{note}."))
    if len(comparison.notes) > MOST_NOTES:
        console.print(f"… and {len(comparison.notes) - MOST_NOTES} more such notes (-o FILE.json).")
    for shift in comparison.shifts:
        console.print()
        _print_shift(console, shift)
    console.print()
    _print_flips(console, comparison.flips)
    console.print()
    console.print(_safe(comparison.verdict, style="bold red" if comparison.regressed else "bold"))


def _head_runs(before: ComparedRun, after: ComparedRun) -> Grid:
    grid = Grid(box=None, pad_edge=False, show_header=False)
    grid.add_column(style="bold")
    grid.add_column(max_width=WIDEST_MODEL, overflow="fold")
    grid.add_column()
    grid.add_column()
    for side, run in (("Before", before), ("After", after)):
        models = "\n".join(str(model["name"]) for model in run.models)
        started = run.created_at[:16].replace("T", " ")
        grid.add_row(side, _safe(models), _safe(run.run_id), _safe(started))
    return grid


def _describe_unpaired(unpaired: Sequence[Unpaired]) -> list[str]:
    counts = {reason: sum(one.counts[reason] for one in unpaired) for reason in REASONS}
    if not any(counts.values()):
        return ["Every verdict is in a pair."]
    lines = ["Verdicts that are in no pair, over all ways and judges:"]
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
        grid = Grid(box=None, pad_edge=False, show_header=False)
        grid.add_column(style="dim")
        for _ in blocks:
            grid.add_column(justify="right", min_width=4)
        grid.add_row("block", *(str(one.block) for one in blocks))
        grid.add_row("cosine", *(plain(one.cosine) or "–" for one in blocks))
        ratios = [one.after / one.before if one.before else None for one in blocks]
        grid.add_row("length", *("–" if one is None else f"×{one:.1f}" for one in ratios))
        console.print(grid)


def _print_flips(console: Console, flips: Sequence[Flip]) -> None:
    if not flips:
        console.print("No sample changed sides.")
        return
    moves = list(dict.fromkeys((one.before, one.after) for one in _put_worst_first(flips)))
    counts: dict[tuple[Way, str], Counter[tuple[str, str]]] = {}
    names: dict[Way, str] = {}
    for one in flips:
        counts.setdefault((one.way, one.judge), Counter())[one.before, one.after] += 1
        names.setdefault(one.way, str(one.to_json()["name"]))
    _print_counts(console, counts, names, moves)
    for one in _put_worst_first(flips)[:MOST_FLIPS]:
        line = f"{one.before} → {one.after}: {one.dataset}/{one.sample_id} ({names[one.way]}, {one.judge})"
        console.print(_safe(line), soft_wrap=True)
    if len(flips) > MOST_FLIPS:
        console.print(f"… and {len(flips) - MOST_FLIPS:,} more; -o FILE.csv has all.")


def _print_counts(
    console: Console,
    counts: Mapping[tuple[Way, str], Counter[tuple[str, str]]],
    names: Mapping[Way, str],
    moves: Sequence[tuple[str, str]],
) -> None:
    several = len({way.model for way, _ in counts}) > 1
    grid = Grid(box=None, pad_edge=False, header_style="bold")
    grid.add_column("Changed sides", max_width=WIDEST_NAME, overflow="fold")
    grid.add_column("Judge", overflow="fold")
    for move in moves:
        grid.add_column("\n→ ".join(move), justify="right")
    for (way, judge), found in list(counts.items())[:MOST_ROWS]:
        name = f"{way.model}: {names[way]}" if several else names[way]
        grid.add_row(_safe(name), _safe(judge), *(f"{found[move]:,}" for move in moves))
    console.print(grid)
    if len(counts) > MOST_ROWS:
        console.print(f"… and {len(counts) - MOST_ROWS} more rows; -o FILE.csv has all.")


def _put_worst_first(flips: Sequence[Flip]) -> list[Flip]:
    order = ("unsafe", "safe", "refused", "answered")
    return sorted(flips, key=lambda one: order.index(one.after))


def _safe(text: str, style: str = "") -> Text:
    return Text(show_safely(text), style=style)
