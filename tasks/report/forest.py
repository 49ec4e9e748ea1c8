"""A forest plot: changes with their intervals, a row a label, a panel a group, beside a line at no change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tasks.report.figure import PALETTE, SHAPES, Figure, label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROW_HEIGHT = 0.2
PANEL_WIDTH = 2.2
LABEL_WIDTH = 1.2
WIDEST_LABEL = 34
# More panels beside each other are too small to read on a page.
MOST_ACROSS = 4


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One change: its interval is None where it has none, and `sure` says that chance does not explain it.

    Rows of a label stand at one height and those of a group in one panel, whose axis has the title `unit`. Rows of
    several series at one height are told apart by shape and colour.
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
    """Draw the rows from the top in their order, and the groups from the left; a filled mark is a sure change.

    Of many groups four stand beside each other, and the others below them.
    """
    labels = list(dict.fromkeys(row.label for row in rows))
    groups = list(dict.fromkeys(row.group for row in rows))
    series = list(dict.fromkeys(row.series for row in rows))
    across = min(MOST_ACROSS, len(groups))

    def draw(axes: list[list[Axes]]) -> None:
        panels = [(one, place) for line in axes for place, one in enumerate(line)]
        for (one, place), group in zip(panels, groups, strict=False):
            own = [row for row in rows if row.group == group]
            _plot_group(one, own, labels, series)
            one.set_title(_cut(group))
            one.set_xlabel(own[0].unit)
            one.set_yticks(range(len(labels)), [_cut(text) for text in labels] if place == 0 else [])
            one.set_ylim(len(labels) - 0.4, -0.6)
        for one, _ in panels[len(groups) :]:
            one.set_axis_off()
        if len(series) > 1:
            _name_series(axes[0][0], series)

    return Figure(
        name=name,
        caption=caption,
        rows=-(-len(groups) // across),
        columns=across,
        size=(PANEL_WIDTH + LABEL_WIDTH / across, 0.9 + ROW_HEIGHT * len(series) * len(labels)),
        draw=draw,
        data=[asdict(row) for row in rows],
    )


def plot_change(
    axes: Axes,
    height: float,
    estimate: float,
    interval: tuple[float, float] | None,
    *,
    shape: str,
    color: str,
    sure: bool,
) -> None:
    """Plot one change with its interval, where it has one; the mark of a sure change is filled."""
    low, high = interval or (estimate, estimate)
    axes.errorbar(
        estimate,
        height,
        xerr=[[max(0.0, estimate - low)], [max(0.0, high - estimate)]],
        fmt=shape,
        markersize=4.5,
        color=color,
        markerfacecolor=color if sure else "white",
        elinewidth=1.1,
        capsize=0,
    )


def _plot_group(axes: Axes, rows: Sequence[ForestRow], labels: Sequence[str], series: Sequence[str]) -> None:
    axes.axvline(0, color="0.6", linewidth=0.8)
    for row in rows:
        number = series.index(row.series)
        shape, color = _choose_look(number)
        plot_change(
            axes,
            labels.index(row.label) + (number - (len(series) - 1) / 2) * 0.7 / len(series),
            row.estimate,
            None if row.low is None or row.high is None else (row.low, row.high),
            shape=shape,
            color=color,
            sure=row.sure,
        )
    for height in range(1, len(labels)):
        axes.axhline(height - 0.5, color="0.92", linewidth=0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.08)


def _name_series(axes: Axes, series: Sequence[str]) -> None:
    """Name every series below the panels: no panel need have all of them."""
    for number, name in enumerate(series):
        shape, color = _choose_look(number)
        axes.plot([], [], shape, color=color, markersize=5, label=label(name))
    axes.figure.legend(loc="outside lower center", ncols=len(series), fontsize=7, handletextpad=0.2)


def _choose_look(number: int) -> tuple[str, str]:
    return SHAPES[number % len(SHAPES)], PALETTE[number % len(PALETTE)]


def _cut(text: str) -> str:
    return text if len(text) <= WIDEST_LABEL else f"{text[: WIDEST_LABEL - 1]}…"
