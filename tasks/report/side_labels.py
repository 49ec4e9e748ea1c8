"""Names of a scatter plot's marks in a column beside its axes, where they cannot overlap, each joined to its mark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Marks closer than this part of an axis share a line to their names.
NEAR = 0.02
SIZE = 6.0
# In an inch.
POINTS = 72


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A mark at a place in data units, its name, and the colours of the line to it and of the name.

    A `shape` stands before the name too, '' for none.
    """

    x: float
    y: float
    name: str
    color: str
    text_color: str
    shape: str = ""


@dataclass(frozen=True, kw_only=True)
class Spot:
    """Marks at about the same place."""

    x: float
    y: float
    marks: tuple[Mark, ...]


def write_labels(axes: Axes, marks: Sequence[Mark], *, line: float, size: float = SIZE) -> None:
    """Write the names right of axes whose limits are set; `line` is that of a name in parts of the axes' height."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    spots = gather(marks, near=(NEAR * (right - left), NEAR * (top - bottom)))
    line = min(1 / max(1, len(marks)), line)
    heights = [line * len(spot.marks) for spot in spots]
    starts = spread([(spot.y - bottom) / (top - bottom) for spot in spots], heights)
    for spot, start, height in zip(spots, starts, heights, strict=True):
        axes.annotate(
            "",
            (spot.x, spot.y),
            xytext=(1.01, start + height / 2),
            textcoords="axes fraction",
            arrowprops={
                "arrowstyle": "-",
                "color": spot.marks[0].color,
                "alpha": 0.4,
                "linewidth": 0.5,
                "shrinkA": 0,
                "shrinkB": 3,
            },
            annotation_clip=False,
            zorder=-1,
        )
        for place, mark in enumerate(spot.marks):
            middle = start + height - line * (place + 0.5)
            axes.annotate(
                mark.name,
                (1.02, middle),
                xycoords="axes fraction",
                xytext=(1.8 * size if mark.shape else 0.0, 0.0),
                textcoords="offset points",
                annotation_clip=False,
                fontsize=size,
                verticalalignment="center",
                color=mark.text_color,
            )
            if mark.shape:
                _draw_shape(axes, mark, middle, size)


def _draw_shape(axes: Axes, mark: Mark, middle: float, size: float) -> None:
    """Draw a mark's shape before its name, hollow."""
    from matplotlib.transforms import ScaledTranslation

    aside = ScaledTranslation(0.9 * size / POINTS, 0, axes.figure.dpi_scale_trans)
    axes.plot(
        1.02,
        middle,
        mark.shape,
        transform=axes.transAxes + aside,
        clip_on=False,
        color=mark.color,
        markerfacecolor="none",
        markeredgewidth=1.2,
        markersize=0.75 * size,
    )


def gather(marks: Sequence[Mark], *, near: tuple[float, float]) -> list[Spot]:
    """Gather marks at about the same place, spots from below upwards."""
    spots: list[Spot] = []
    for mark in marks:
        for place, spot in enumerate(spots):
            if abs(spot.x - mark.x) <= near[0] and abs(spot.y - mark.y) <= near[1]:
                spots[place] = Spot(x=spot.x, y=spot.y, marks=(*spot.marks, mark))
                break
        else:
            spots.append(Spot(x=mark.x, y=mark.y, marks=(mark,)))
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
