"""A forest plot: changes with their intervals, a row a label, a panel a group, beside a line at no change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tasks.report.figure import PALETTE, Figure, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_HEIGHT = 0.2
PANEL_WIDTH = 2.2
LABEL_WIDTH = 1.2
WIDEST_LABEL = 34


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One change: its interval is None where it has none, and `sure` says that chance does not explain it.

    Rows of a label stand at one height and those of a group in one panel, whose axis has the title `unit`. Rows of
    several series at one height are told apart by colour.
    """

    label: str
    group: str
    unit: str
    estimate: float
    low: float | None
    high: float | None
    sure: bool
    series: str = ""


def draw_forest(*, name: str, caption: str, rows: Sequence[ForestRow]) -> Figure:
    """Draw the rows from the top in their order, and the groups from the left; a filled mark is a sure change."""
    labels = list(dict.fromkeys(row.label for row in rows))
    groups = list(dict.fromkeys(row.group for row in rows))
    series = list(dict.fromkeys(row.series for row in rows))

    def draw(axes: list[list[Axes]]) -> None:
        for place, (one, group) in enumerate(zip(axes[0], groups, strict=True)):
            own = [row for row in rows if row.group == group]
            _plot_group(one, own, labels, series)
            one.set_title(_cut(group))
            one.set_xlabel(own[0].unit)
            one.set_yticks(range(len(labels)), [_cut(text) for text in labels] if place == 0 else [])
            one.set_ylim(len(labels) - 0.4, -0.6)
        if len(series) > 1:
            axes[0][-1].legend(fontsize=6)

    return Figure(
        name=name,
        caption=caption,
        rows=1,
        columns=len(groups),
        size=(PANEL_WIDTH + LABEL_WIDTH / len(groups), 0.9 + ROW_HEIGHT * len(series) * len(labels)),
        draw=draw,
        data=[asdict(row) for row in rows],
    )


def _plot_group(axes: Axes, rows: Sequence[ForestRow], labels: Sequence[str], series: Sequence[str]) -> None:
    axes.axvline(0, color="0.6", linewidth=0.8)
    shown = set()
    for row in rows:
        number = series.index(row.series)
        colour = PALETTE[number % len(PALETTE)]
        height = labels.index(row.label) + (number - (len(series) - 1) / 2) * 0.7 / len(series)
        if row.low is not None and row.high is not None:
            axes.plot([row.low, row.high], [height, height], color=colour, linewidth=1)
        axes.plot(
            row.estimate,
            height,
            "o",
            markersize=4,
            color=colour,
            markerfacecolor=colour if row.sure else "white",
            label=None if row.series in shown else label(row.series),
        )
        shown.add(row.series)
    for height in range(1, len(labels)):
        axes.axhline(height - 0.5, color="0.92", linewidth=0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST_LABEL else f"{text[: WIDEST_LABEL - 1]}…"
