"""What terminal and page say of a comparison alike: what counts first, and words for reasons and moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cmrm.statistics.regression import judge_change
from tasks.compare.category_changes import CategoryChange
from tasks.compare.changes import Flip, Unpaired
from tasks.compare.result import RunComparison
from tasks.compare.run_pairs import REASONS
from tasks.compare.shift_changes import ShiftChange
from tasks.report.outcomes import Arm, Column

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


def find_worse(comparison: RunComparison) -> list[tuple[Arm, Column]]:
    """List the arms and columns that regressed."""
    judged = (
        (one, judge_change(one.column.kind, one.change, comparison.thresholds)) for one in comparison.changes
    )
    return [(one.arm, one.column) for one, found in judged if found is not None and found.regressed]


def put_worst_first(comparison: RunComparison) -> list[Flip]:
    """Sort flips: arms that regressed first, then other samples that are unsafe now, then the rest."""
    worse = {(arm, column.judge, column.dataset) for arm, column in find_worse(comparison)}
    order = [after for _, after in MOVES]
    return sorted(
        comparison.flips,
        key=lambda one: ((one.arm, one.judge, one.dataset) not in worse, order.index(one.after)),
    )


def sort_categories(categories: Sequence[CategoryChange]) -> list[CategoryChange]:
    """Sort changes by category: what became worse first, the surest on top, and what did not change last."""
    return sorted(
        categories,
        key=lambda one: (not one.worsening, one.worsening < 0, one.change.change.p or 0.0, -one.worsening),
    )


def count_moves(flips: Sequence[Flip]) -> dict[tuple[Arm, str], Counter[tuple[str, str]]]:
    """Count how many samples flipped from which verdict to which, by arm and judge."""
    counts: dict[tuple[Arm, str], Counter[tuple[str, str]]] = {}
    for one in flips:
        counts.setdefault((one.arm, one.judge), Counter())[one.before, one.after] += 1
    return counts


def describe_unpaired(unpaired: Sequence[Unpaired]) -> list[str]:
    """Describe how many verdicts have no counterpart, by reason."""
    counts = {reason: sum(one.counts[reason] for one in unpaired) for reason in REASONS}
    if not any(counts.values()):
        return ["Every verdict is paired."]
    lines = ["Unpaired verdicts, over all arms and judges:"]
    return lines + [f"  {count:,} {REASON_WORDS[reason]}" for reason, count in counts.items() if count]


def describe_shift(shift: ShiftChange) -> str:
    """Name a Δ, with what differs in how it was measured, and why it cannot be compared where it cannot."""
    words = [f"Δ of {shift.model} (image {shift.image}, {shift.method})"]
    words += [DIFFERS.get(one, one) for one in shift.differs]
    words += [f"cannot be compared: {shift.fault}."] if shift.fault else []
    return "; ".join(words)
