"""Figures of comparisons with one run: what changed in each arm, and Δ's cosine and length by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cmrm.statistics.regression import GAINS, SIGNIFICANCE
from tasks.compare.changes import Change
from tasks.compare.result import RunComparison
from tasks.compare.shift_changes import ShiftChange
from tasks.report.figure import PALETTE, Figure, label
from tasks.report.forest import ForestRow, draw_forest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST_ARMS = 40
MEASURES = {"unsafe": "Unsafe", "utility": "Utility", "score": "Score", "over_refusal": "Over-refusal"}


def draw_changes(comparisons: Mapping[str, RunComparison]) -> Figure | None:
    """Draw the change of each measure in each arm; `comparisons` of later runs by their names. None without a pair."""
    several = len({one.arm.model for found in comparisons.values() for one in found.changes}) > 1
    rows = [
        _make_row(one, series=name, several=several)
        for name, found in comparisons.items()
        for one in found.changes
        if one.change.change is not None
    ]
    if not rows:
        return None
    # The arms that changed most, where there are too many to read.
    sizes: dict[str, float] = {}
    for row in rows:
        sizes[row.label] = max(sizes.get(row.label, 0.0), abs(row.estimate))
    kept = set(sorted(sizes, key=lambda name: -sizes[name])[:MOST_ARMS])
    left = f" The {MOST_ARMS} of {len(sizes)} arms that changed most." if len(kept) < len(sizes) else ""
    return draw_forest(
        name="changes",
        caption="Change from the first run on the same samples, with 95 % intervals; filled where chance does not "
        f"explain it (p corrected by Holm below {SIGNIFICANCE}).{left}",
        rows=[row for row in rows if row.label in kept],
    )


def draw_shift_changes(comparisons: Mapping[str, RunComparison]) -> Figure | None:
    """Draw, for each Δ that two runs have, its cosine and the ratio of its lengths by block; None without any."""
    lines = [
        (_name_shift(shift, run, comparisons), shift)
        for run, found in comparisons.items()
        for shift in found.shifts
        if shift.blocks
    ]
    if not lines:
        return None

    def draw(axes: list[list[Axes]]) -> None:
        from matplotlib.ticker import MaxNLocator

        cosines, lengths = axes[0]
        for number, (name, shift) in enumerate(lines):
            blocks = [one.block for one in shift.blocks]
            style: dict[str, Any] = {
                "color": PALETTE[number % len(PALETTE)],
                "linewidth": 1,
                "markersize": 2.5,
            }
            known = [(one.block, one.cosine) for one in shift.blocks if one.cosine is not None]
            cosines.plot(
                [block for block, _ in known],
                [cosine for _, cosine in known],
                marker="o",
                label=label(name),
                **style,
            )
            ratios = [one.after / one.before if one.before else float("nan") for one in shift.blocks]
            lengths.plot(blocks, ratios, marker="o", **style)
        cosines.set_ylim(min(-0.05, cosines.get_ylim()[0]), 1.05)
        for one, level, title in ((cosines, 1, "cosine of Δ"), (lengths, 1, "ratio of |Δ|")):
            one.axhline(level, color="0.7", linewidth=0.8, zorder=0)
            one.set_title(title)
            one.set_xlabel("block")
            one.xaxis.set_major_locator(MaxNLocator(integer=True))
        lengths.set_ylim(0, None)
        cosines.legend(fontsize=6)

    return Figure(
        name="shifts",
        caption="Δ of each run against the first run's, block by block: 1 is the same direction, and the same length.",
        rows=1,
        columns=2,
        size=(3.6, 2.8),
        draw=draw,
        data=[
            {"run": run, "model": shift.model, "image": shift.image, "method": shift.method, **asdict(block)}
            for run, found in comparisons.items()
            for shift in found.shifts
            for block in shift.blocks
        ],
    )


def _make_row(one: Change, *, series: str, several: bool) -> ForestRow:
    change = one.change
    scale = 1.0 if change.kind == "bootstrap" else 100.0
    unit = "the judge's points" if change.kind == "bootstrap" else "points"
    better = "right is better" if one.column.kind in GAINS else "right is worse"
    place = " ".join(filter(None, (MEASURES[one.column.kind], one.column.dataset)))
    return ForestRow(
        label=f"{one.arm.model}: {one.name}" if several else one.name,
        group=f"{place} ({one.column.judge})",
        unit=f"{unit}; {better}",
        estimate=scale * (change.change or 0.0),
        low=None if change.low is None else scale * change.low,
        high=None if change.high is None else scale * change.high,
        sure=change.p_adjusted is not None and change.p_adjusted < SIGNIFICANCE,
        series=series,
    )


def _name_shift(shift: ShiftChange, run: str, comparisons: Mapping[str, RunComparison]) -> str:
    shifts: Sequence[ShiftChange] = [one for found in comparisons.values() for one in found.shifts]
    parts = [run] if len(comparisons) > 1 else []
    parts += [shift.model] if len({one.model for one in shifts}) > 1 else []
    return ", ".join([*parts, shift.image, shift.method])
