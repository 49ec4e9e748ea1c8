"""A forest plot of paired changes: estimate and 95 % interval of each arm against its baseline, around zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.statistics.paired_tests import Comparison
from tasks.report.figure import PALETTE, Figure, label
from tasks.report.forest import plot_change
from tasks.report.headline import Bound
from tasks.report.lead_arms import choose_lead, name_lead, name_models
from tasks.report.outcomes import Column, find_leading
from tasks.report.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# At most so many data sets' unsafe rates, and lines of all arms together.
MOST_DATASETS, MOST_LINES, LEAST_ARMS = 3, 30, 3
# A colour for what is measured, and shapes for the data sets.
COLORS = {"unsafe": PALETTE[1], "over_refusal": PALETTE[0], "utility": PALETTE[2]}
SHAPES = {"unsafe": "osD", "over_refusal": "^", "utility": "v"}
TITLES = {"unsafe": "Unsafe", "over_refusal": "Over-refusal", "utility": "Utility"}
SIZE = (5.6, 3.9)
# Between the arms, in lines.
GAP = 0.8
# The least reach of the axis to one side, so that small changes do not look large; in percentage points.
LEAST_REACH = 5.0


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A column of the table, with its shape, colour and title in the figure."""

    place: int
    column: Column
    shape: str
    color: str
    title: str


def draw_changes(table: Table, bound: Bound) -> list[Figure]:
    """Draw the paired changes of rates; no figure where nothing was compared.

    Of many arms those that the headline speaks of come first.
    """
    measures = _choose_measures(table)
    rows = choose_lead(
        table,
        bound,
        most=max(LEAST_ARMS, MOST_LINES // max(1, len(measures))),
        has_numbers=lambda row: any(_compare(row, one) for one in measures),
    )
    if not rows:
        return []
    names = name_models(table)

    def draw(axes: list[list[Axes]]) -> None:
        _draw_forest(axes[0][0], rows, measures, names)

    compared = [row for row in table.rows if any(cell.change and cell.change.n for cell in row.cells)]
    left_out = len(compared) - len(rows)
    return [
        Figure(
            name="changes",
            caption="Each line is a paired change on the same questions, with its 95 % interval; filled where that "
            f"leaves out zero{f'; {left_out} more arms in the table of changes' if left_out else ''}.",
            rows=1,
            columns=1,
            size=SIZE,
            draw=draw,
            data=[_flatten(row, one) for row in rows for one in measures if _compare(row, one)],
        )
    ]


def _choose_measures(table: Table) -> list[Measure]:
    """Unsafe rates of the first data sets, over-refusal and utility, each by its first judge."""
    found: dict[str, list[int]] = {kind: [] for kind in COLORS}
    for place in find_leading(table.columns):
        if table.columns[place].kind in found:
            found[table.columns[place].kind].append(place)
    several = len(found["unsafe"]) > 1
    return [
        Measure(
            place=place,
            column=table.columns[place],
            shape=shape,
            color=COLORS[kind],
            title=f"{TITLES[kind]} {table.columns[place].dataset}"
            if several and kind == "unsafe"
            else TITLES[kind],
        )
        for kind, places in found.items()
        for place, shape in zip(places[:MOST_DATASETS], SHAPES[kind], strict=False)
    ]


def _compare(row: Row, measure: Measure) -> Comparison | None:
    """The change of a row in a measure, None where there is none with an interval."""
    change = row.cells[measure.place].change
    return change if change is not None and change.n and change.low is not None else None


def _draw_forest(
    axes: Axes, rows: Sequence[Row], measures: Sequence[Measure], names: Mapping[str, str]
) -> None:
    height = 0.0
    ticks: list[tuple[float, str]] = []
    heads: list[tuple[float, str]] = []
    group = None
    shown: dict[Measure, None] = {}
    for row in rows:
        if (own := (row.arm.model, row.baseline)) != group:
            group = own
            heads.append((height, _name_group(row, names)))
            height += 1.4
        changes = [(one, change) for one in measures if (change := _compare(row, one)) is not None]
        ticks.append((height + (len(changes) - 1) / 2, name_lead(row)))
        for place, (one, change) in enumerate(changes):
            shown[one] = None
            _plot(axes, height + place, one, change)
        height += len(changes) + GAP
    axes.axvline(0, color="0.3", linewidth=0.8, zorder=0)
    axes.set_yticks([middle for middle, _ in ticks], [name for _, name in ticks])
    for middle, name in heads:
        axes.text(
            0.01,
            middle,
            name,
            transform=axes.get_yaxis_transform(),
            fontsize=7,
            color="0.3",
            va="center",
            style="italic",
        )
    axes.set_ylim(height - GAP + 0.4, -0.8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -LEAST_REACH), max(high, LEAST_REACH))
    axes.set_xlabel("change in percentage points")
    for one in shown:
        axes.plot([], [], one.shape, color=one.color, markersize=5, label=label(one.title))
    axes.figure.legend(loc="outside lower center", ncols=min(len(shown), 3), fontsize=7, handletextpad=0.2)


def _plot(axes: Axes, height: float, measure: Measure, change: Comparison) -> None:
    value, low, high = (100 * (bound or 0.0) for bound in (change.change, change.low, change.high))
    plot_change(
        axes,
        height,
        value,
        (low, high),
        shape=measure.shape,
        color=measure.color,
        sure=bool(change.excludes_zero),
    )


def _name_group(row: Row, names: Mapping[str, str]) -> str:
    model = names[row.arm.model]
    return f"{model}, against {row.baseline}" if model else f"against {row.baseline}"


def _flatten(row: Row, measure: Measure) -> dict[str, Any]:
    change = row.cells[measure.place].change or Comparison(kind="mcnemar", n=0)
    return {
        **row.arm._asdict(),
        "name": row.name,
        "baseline": row.baseline,
        "measure": measure.column.kind,
        "dataset": measure.column.dataset,
        "judge": measure.column.judge,
        "pairs": change.n,
        "before": change.before,
        "after": change.after,
        "change": change.change,
        "change_low": change.low,
        "change_high": change.high,
        "p": change.p,
        "p_holm": change.p_adjusted,
    }
