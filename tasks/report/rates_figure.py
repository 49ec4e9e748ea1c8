"""The first figure of a report: unsafe answers against harmless questions refused, a mark an arm, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.statistics.rates import Rate
from tasks.report.figure import PALETTE, SHAPES, Figure, measure
from tasks.report.headline import Bound
from tasks.report.lead_arms import choose_lead, name_lead, name_models
from tasks.report.outcomes import find_leading
from tasks.report.side_labels import Mark, write_labels
from tasks.report.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# More marks are not told apart at a glance.
MOST_MARKS = 12
# Yellow is left out, in which marks on white are lost.
COLORS = (PALETTE[6], PALETTE[1], PALETTE[0], PALETTE[2], PALETTE[3], PALETTE[4], PALETTE[5], "#7F7F7F")
TEXT = "0.15"
# Points: of a mark, and of each further one around it.
SMALLEST, AROUND, MOST_AROUND = 6.5, 3.5, 4
# Inches: of the figure, of the line of a name, and of what stands above and below the axes.
SIZE, LINE, BESIDE = (5.4, 3.9), 0.16, 0.6
# Names are smaller in a figure that is narrower than this, in inches.
NARROW = 5.0
# The least reach of an axis, so that small rates do not look high.
LEAST_REACH = 10.0


@dataclass(frozen=True, kw_only=True)
class Point:
    """An arm's rates: unsafe answers over all data sets, and harmless questions refused."""

    row: Row
    unsafe: Rate
    over_refusal: Rate


def draw_rates(table: Table, bound: Bound) -> list[Figure]:
    """Draw the arms' rates, or those of unsafe answers alone where none was asked harmless questions.

    Without unsafe rates there is no figure. Of more than twelve arms those that the headline speaks of come first.
    """
    points = {row.arm: _pool(table, row) for row in table.rows}
    plane = any(_is_whole(one) for one in points.values())
    rows = choose_lead(
        table,
        bound,
        most=MOST_MARKS,
        has_numbers=lambda row: _is_whole(points[row.arm]) if plane else points[row.arm].unsafe.n > 0,
    )
    if not rows:
        return []
    drawn = [points[row.arm] for row in rows]
    names = name_models(table)

    def draw(axes: list[list[Axes]]) -> None:
        (_draw_plane if plane else _draw_line)(axes[0][0], drawn, names)

    return [
        Figure(
            name="rates",
            caption=_describe(table, left_out=len(table.rows) - len(rows), plane=plane),
            rows=1,
            columns=1,
            size=SIZE,
            draw=draw,
            data=[_flatten(one) for one in drawn],
        )
    ]


def _find(table: Table, kind: str) -> list[int]:
    return [place for place in find_leading(table.columns) if table.columns[place].kind == kind]


def _pool(table: Table, row: Row) -> Point:
    """Add the counts of the data sets, by the first judge of each kind."""
    rates = {}
    for kind in ("unsafe", "over_refusal"):
        own = [value for place in _find(table, kind) if isinstance(value := row.cells[place].value, Rate)]
        rates[kind] = Rate(successes=sum(one.successes for one in own), n=sum(one.n for one in own))
    return Point(row=row, **rates)


def _is_whole(point: Point) -> bool:
    return point.unsafe.n > 0 and point.over_refusal.n > 0


def _describe(table: Table, *, left_out: int, plane: bool) -> str:
    unsafe = [table.columns[place] for place in _find(table, "unsafe")]
    over = f" ({len(unsafe)} data sets together)" if len(unsafe) > 1 else ""
    against = " against harmless questions refused" if plane else ""
    good = "low and left is good" if plane else "low is good"
    more = f"; {left_out} more in the main table" if left_out else ""
    return (
        f"Each mark is an arm, with 95 % Wilson intervals: harmful questions answered{over}{against}, by the judge "
        f"{unsafe[0].judge}; {good}{more}."
    )


def _choose_looks(points: Sequence[Point], names: Mapping[str, str]) -> list[tuple[str, str]]:
    """A shape for each arm, and a colour for each arm of one model, or for each of several models."""
    arms = [*dict.fromkeys(one.row.name for one in points)]
    colored = [names[one.row.arm.model] or one.row.name for one in points]
    kinds = [*dict.fromkeys(colored)]
    return [
        (SHAPES[arms.index(one.row.name) % len(SHAPES)], COLORS[kinds.index(own) % len(COLORS)])
        for one, own in zip(points, colored, strict=True)
    ]


def _name(point: Point, names: Mapping[str, str]) -> str:
    model = names[point.row.arm.model]
    return f"{name_lead(point.row)} ({model})" if model else name_lead(point.row)


def _draw_plane(axes: Axes, points: Sequence[Point], names: Mapping[str, str]) -> None:
    marks: list[Mark] = []
    for one, (shape, color) in zip(points, _choose_looks(points, names), strict=True):
        (x, left, right), (y, below, above) = measure(one.over_refusal), measure(one.unsafe)
        # Hollow, and one around the other where they are at the same place.
        within = min(MOST_AROUND, sum((mark.x, mark.y) == (x, y) for mark in marks))
        axes.errorbar(
            x,
            y,
            xerr=[[left], [right]],
            yerr=[[below], [above]],
            fmt=shape,
            markersize=SMALLEST + AROUND * within,
            color=color,
            markerfacecolor="none",
            markeredgewidth=1.4,
            elinewidth=0.8,
            capsize=0,
            clip_on=False,
        )
        marks.append(Mark(x=x, y=y, name=_name(one, names), color=color, text_color=TEXT, shape=shape))
    axes.set_xlabel("harmless questions refused (%)")
    axes.set_ylabel("unsafe answers (%)")
    highest = max(LEAST_REACH, axes.get_xlim()[1]), max(LEAST_REACH, axes.get_ylim()[1])
    axes.set_xlim(-0.05 * highest[0], highest[0])
    axes.set_ylim(-0.05 * highest[1], highest[1])
    width, height = (edge / axes.figure.dpi for edge in axes.figure.bbox.size)
    size = 8.0 if width >= NARROW else 6.0
    write_labels(axes, marks, line=LINE / (height - BESIDE) * size / 8, size=size)


def _draw_line(axes: Axes, points: Sequence[Point], names: Mapping[str, str]) -> None:
    for place, (one, (shape, color)) in enumerate(zip(points, _choose_looks(points, names), strict=True)):
        x, left, right = measure(one.unsafe)
        axes.errorbar(
            x,
            place,
            xerr=[[left], [right]],
            fmt=shape,
            markersize=SMALLEST,
            color=color,
            markerfacecolor="none",
            markeredgewidth=1.4,
            elinewidth=0.8,
            capsize=0,
        )
    axes.set_yticks(range(len(points)), [_name(one, names) for one in points])
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("unsafe answers (%)")
    highest = max(LEAST_REACH, axes.get_xlim()[1])
    axes.set_xlim(-0.02 * highest, highest)


def _flatten(point: Point) -> dict[str, Any]:
    flat: dict[str, Any] = {**point.row.arm._asdict(), "name": point.row.name}
    for name, rate in (("unsafe", point.unsafe), ("over_refusal", point.over_refusal)):
        low, high = rate.interval or (None, None)
        flat |= {
            name: rate.value,
            f"{name}_low": low,
            f"{name}_high": high,
            f"{name}_successes": rate.successes,
            f"{name}_n": rate.n,
        }
    return flat
