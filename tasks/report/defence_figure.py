"""The figure of defences: unsafe answers against over-refusal, one point a defence, with the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tasks.report.defences import CMRM, TIMED, DefenceRow, DefenceTable
from tasks.report.figure import PALETTE, Figure, measure, percent
from tasks.report.side_labels import Mark, write_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLAIN_COLOR, CMRM_COLOR = "#000000", PALETTE[0]
# The rest of the palette but yellow, in which names cannot be read, and three that are as far from it as from each
# other: there are more kinds than colours in it.
KIND_COLORS = (*PALETTE[1:6], "#7F7F7F", "#8C564B", "#5D3A9B")
MARKERS = {CMRM: "D", "": "s"}
# Inches between the lines of labels, and those that a panel needs beside its axes.
LINE, BESIDE, LEAST_HEIGHT, WIDTH = 0.12, 0.8, 3.2, 5.4


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
            Figure(
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
        (x, left, right), (y, below, above) = measure(row.over_refusal), measure(row.unsafe)
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
    front = sorted({(percent(row.over_refusal), percent(row.unsafe)) for row in rows if row.on_front})
    axes.plot(*zip(*front, strict=True), color="0.6", linewidth=0.8, linestyle="--", zorder=0)
    axes.set_xlabel("harmless questions refused (%)")
    axes.set_ylabel("unsafe answers (%)")
    # A minimum scale, so that small rates do not look high.
    axes.set_xlim(-3.0, max(20.0, axes.get_xlim()[1]))
    axes.set_ylim(-3.0, max(20.0, axes.get_ylim()[1]))
    marks = [
        Mark(
            x=percent(row.over_refusal),
            y=percent(row.unsafe),
            name=row.name,
            color=colors[row.kind],
            text_color=colors[row.kind],
        )
        for row in rows
    ]
    write_labels(axes, marks, line=LINE / (LEAST_HEIGHT - BESIDE))


def _choose_colors(rows: Sequence[DefenceRow]) -> dict[str, str]:
    others = [kind for kind in dict.fromkeys(row.kind for row in rows) if kind not in MARKERS]
    colors = {kind: KIND_COLORS[place % len(KIND_COLORS)] for place, kind in enumerate(others)}
    return {"": PLAIN_COLOR, CMRM: CMRM_COLOR, **colors}


def _flatten(row: DefenceRow) -> dict[str, Any]:
    flat: dict[str, Any] = {**row.arm._asdict(), "name": row.name, "kind": row.kind}
    for name, rate in (("unsafe", row.unsafe), ("over_refusal", row.over_refusal)):
        low, high = rate.interval or (None, None)
        flat |= {name: rate.value, f"{name}_low": low, f"{name}_high": high}
    return {**flat, "on_front": row.on_front}
