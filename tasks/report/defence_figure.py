"""The figure of defences: unsafe answers against over-refusal, one point a defence, with the front."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.statistics.rates import Rate
from tasks.report.defences import CMRM, TIMED, DefenceRow, DefenceTable
from tasks.report.figure import PALETTE, Figure, draw_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN_COLOR, CMRM_COLOR = "#000000", PALETTE[0]
# The rest of the palette but yellow, in which names cannot be read, and three that are as far from it as from each
# other: there are more kinds than colours in it.
KIND_COLORS = (*PALETTE[1:6], "#7F7F7F", "#8C564B", "#5D3A9B")
MARKERS = {CMRM: "D", "": "s"}
# Points closer than this part of an axis share a line to their labels.
NEAR = 0.02
LABEL_SIZE = 6.0
# Inches between the lines of labels, and those that a panel needs beside its axes.
LINE, BESIDE, LEAST_HEIGHT, WIDTH = 0.12, 0.8, 3.2, 5.4


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Points at about the same place, in per cent (x over-refusal, y unsafe), and the rows that they are."""

    x: float
    y: float
    rows: tuple[DefenceRow, ...]


def draw_defences(table: DefenceTable | None) -> list[Figure]:
    """Draw one figure per model: each arm that is shown the samples' own images, if both rates were measured."""
    figures = []
    for number, model in enumerate(table.models() if table else ()):
        rows = [
            row
            for row in (table.rows if table else ())
            if row.arm.model == model and row.arm.condition == TIMED and row.unsafe.n and row.over_refusal.n
        ]
        if not any(row.kind for row in rows):
            continue

        def draw(axes: list[list[Axes]], rows: Sequence[DefenceRow] = rows) -> None:
            _draw_panel(axes[0][0], rows)

        figures.append(
            draw_figure(
                name=f"defences-{number + 1}",
                caption=f"{model}, questions with their images: unsafe answers against harmless questions refused, "
                "with 95 % Wilson intervals. Square: plain; diamond: CMRM. Filled, and joined by the line: no other is "
                "as good in both and better in one.",
                rows=1,
                columns=1,
                size=(WIDTH, max(LEAST_HEIGHT, LINE * len(rows) + BESIDE)),
                draw=draw,
                data=[_flatten(row) for row in rows],
            )
        )
    return figures


def _draw_panel(axes: Axes, rows: Sequence[DefenceRow]) -> None:
    colors = _choose_colors(rows)
    # Plain answers and CMRM above the others, where several are at the same place.
    for row in sorted(rows, key=lambda row: [*MARKERS].index(row.kind) + 1 if row.kind in MARKERS else 0):
        (x, left, right), (y, below, above) = _measure(row.over_refusal), _measure(row.unsafe)
        axes.errorbar(
            x,
            y,
            xerr=[[left], [right]],
            yerr=[[below], [above]],
            fmt=MARKERS.get(row.kind, "o"),
            markersize=5,
            color=colors[row.kind],
            markerfacecolor=colors[row.kind] if row.on_front else "white",
            elinewidth=0.7,
            capsize=1.5,
        )
    front = sorted({(_percent(row.over_refusal), _percent(row.unsafe)) for row in rows if row.on_front})
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlabel("harmless questions refused (%)")
    axes.set_ylabel("unsafe answers (%)")
    # A minimum scale, so that small rates do not look high.
    limits = (-3.0, max(20.0, axes.get_xlim()[1])), (-3.0, max(20.0, axes.get_ylim()[1]))
    axes.set_xlim(*limits[0])
    axes.set_ylim(*limits[1])
    _label(axes, rows, limits, colors)


def _label(
    axes: Axes,
    rows: Sequence[DefenceRow],
    limits: tuple[tuple[float, float], tuple[float, float]],
    colors: dict[str, str],
) -> None:
    """Write the names in a column beside the axes, where they cannot overlap, each joined to its point."""
    spans = [high - low for low, high in limits]
    spots = _gather(rows, near=(NEAR * spans[0], NEAR * spans[1]))
    # In parts of the axes' height.
    line = min(1 / max(1, len(rows)), LINE / (LEAST_HEIGHT - BESIDE))
    heights = [line * len(spot.rows) for spot in spots]
    starts = spread([(spot.y - limits[1][0]) / spans[1] for spot in spots], heights)
    for spot, start, height in zip(spots, starts, heights, strict=True):
        axes.annotate(
            "",
            (spot.x, spot.y),
            xytext=(1.01, start + height / 2),
            textcoords="axes fraction",
            arrowprops={
                "arrowstyle": "-",
                "color": colors[spot.rows[0].kind],
                "alpha": 0.4,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 3,
            },
            annotation_clip=False,
            zorder=-1,
        )
        for place, row in enumerate(spot.rows):
            axes.text(
                1.02,
                start + height - line * (place + 0.5),
                row.name,
                transform=axes.transAxes,
                fontsize=LABEL_SIZE,
                verticalalignment="center",
                color=colors[row.kind],
            )


def _gather(rows: Sequence[DefenceRow], *, near: tuple[float, float]) -> list[Spot]:
    """Gather rows whose points are about the same, spots from below upwards."""
    spots: list[Spot] = []
    for row in rows:
        x, y = _percent(row.over_refusal), _percent(row.unsafe)
        for place, spot in enumerate(spots):
            if abs(spot.x - x) <= near[0] and abs(spot.y - y) <= near[1]:
                spots[place] = Spot(x=spot.x, y=spot.y, rows=(*spot.rows, row))
                break
        else:
            spots.append(Spot(x=x, y=y, rows=(row,)))
    return sorted(spots, key=lambda spot: (spot.y, spot.x))


def spread(centers: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Find the lower edges of blocks of these heights between 0 and 1, near their centres, which ascend.

    Blocks do not overlap, and keep their order; they fit if the heights add up to 1 or less.
    """
    starts: list[float] = []
    lowest = 0.0
    for center, height in zip(centers, heights, strict=True):
        starts.append(max(lowest, center - height / 2))
        lowest = starts[-1] + height
    highest = 1.0
    for place in reversed(range(len(starts))):
        starts[place] = min(starts[place], highest - heights[place])
        highest = starts[place]
    return starts


def _choose_colors(rows: Sequence[DefenceRow]) -> dict[str, str]:
    others = [kind for kind in dict.fromkeys(row.kind for row in rows) if kind not in MARKERS]
    colors = {kind: KIND_COLORS[place % len(KIND_COLORS)] for place, kind in enumerate(others)}
    return {"": PLAIN_COLOR, CMRM: CMRM_COLOR, **colors}


def _measure(rate: Rate) -> tuple[float, float, float]:
    """A rate in per cent, and how far its interval reaches below and above it."""
    value, (low, high) = _percent(rate), rate.interval or (0.0, 1.0)
    return value, max(0.0, value - 100 * low), max(0.0, 100 * high - value)


def _percent(rate: Rate) -> float:
    return 100 * (rate.value or 0.0)


def _flatten(row: DefenceRow) -> dict[str, Any]:
    flat: dict[str, Any] = {**row.arm._asdict(), "name": row.name, "kind": row.kind}
    for measure, rate in (("unsafe", row.unsafe), ("over_refusal", row.over_refusal)):
        low, high = rate.interval or (None, None)
        flat |= {measure: rate.value, f"{measure}_low": low, f"{measure}_high": high}
    return {**flat, "on_front": row.on_front}
