"""A figure as files: SVG for papers, PNG for screens, CSV of its data."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.statistics.rates import Rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette, safe for colour-blind readers.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
# Shapes tell arms apart without colours.
SHAPES = "osD^vPX<>ph*"
STYLE: dict[Any, Any] = {
    # Names are user input: a dollar sign must not start a formula.
    "text.parse_math": False,
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    # A fixed salt makes the ids inside an SVG, and so its bytes, reproducible.
    "svg.hashsalt": "cmrm",
    "svg.fonttype": "none",
}

# Fonts inside the file: as outlines, and as TrueType, which publishers accept where they refuse Type 3.
PAPER_STYLE: dict[Any, Any] = {
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
    "font.size": 7,
    "axes.titlesize": 8,
}
SVG_METADATA = {"Date": None, "Creator": None}
# Of its width on a screen a panel in a paper has this part at least, and of its height.
LEAST_PART, LEAST_HEIGHT_PART = 0.57, 0.75
# Inches, so that a page of letter paper has room for it and its caption.
TALLEST = 8.5


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure that can be drawn at any size: its file name, a caption of one sentence, its panels and its data.

    Parameters
    ----------
    rows, columns
        The panels on a screen.
    size
        Width and height of a panel there, in inches.
    draw
        Draws on the axes [rows][columns].
    data
        What it shows, as records.
    """

    name: str
    caption: str
    rows: int
    columns: int
    size: tuple[float, float]
    draw: Callable[[list[list[Axes]]], None]
    data: Sequence[Mapping[str, Any]]

    def save(self) -> dict[str, bytes]:
        """Draw it for a screen: the bytes of its files by suffix, with the same bytes each time."""
        with _styled(STYLE):
            size = self.size[0] * self.columns, self.size[1] * self.rows
            canvas = _make_canvas(size)
            self.draw(canvas.subplots(self.rows, self.columns, squeeze=False).tolist())
            # Without version and date, the bytes are reproducible.
            return {
                "svg": _save(canvas, "svg", SVG_METADATA),
                "png": _save(canvas, "png", {"Software": None}),
                "csv": to_csv(self.data),
            }

    def fits(self, width: float) -> bool:
        """Whether its panels can be read in a figure `width` inches wide, and it is no taller than a page."""
        return width >= LEAST_PART * self.size[0] and self._lay_out(width)[1] <= TALLEST

    def save_for_paper(self, width: float) -> dict[str, bytes]:
        """Draw it `width` inches wide for a paper, with its fonts inside: SVG and PDF by suffix.

        Panels that would be too narrow beside each other stand below each other. Text is drawn at its final size: as
        outlines in SVG, as embedded TrueType (Type 42) in PDF.
        """
        across, height = self._lay_out(width)
        lines = -(-self.columns // across)
        with _styled({**STYLE, **PAPER_STYLE}):
            canvas = _make_canvas((width, height))
            grid = canvas.subplots(self.rows * lines, across, squeeze=False)
            axes = grid.reshape(self.rows, lines * across)
            for unused in axes[:, self.columns :].flat:
                unused.set_axis_off()
            self.draw(axes[:, : self.columns].tolist())
            return {
                "svg": _save(canvas, "svg", SVG_METADATA),
                "pdf": _save(canvas, "pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
            }

    def _lay_out(self, width: float) -> tuple[int, float]:
        """How many panels stand beside each other in a figure `width` inches wide, and its height in inches."""
        across = max(1, min(self.columns, int(width / (LEAST_PART * self.size[0]))))
        lines = -(-self.columns // across)
        height = self.size[1] * min(1.0, max(LEAST_HEIGHT_PART, width / across / self.size[0]))
        return across, height * lines * self.rows


def to_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Write records as CSV with a header; columns in the order in which they first appear."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def label(text: str) -> str:
    """A legend entry that is always shown: matplotlib omits labels that start with an underscore."""
    return f" {text}" if text.startswith("_") else text


def percent(rate: Rate) -> float:
    """A rate in per cent; 0 where nothing was measured."""
    return 100 * (rate.value or 0.0)


def measure(rate: Rate) -> tuple[float, float, float]:
    """A rate in per cent, and how far its interval reaches below and above it."""
    value, (low, high) = percent(rate), rate.interval or (0.0, 1.0)
    return value, max(0.0, value - 100 * low), max(0.0, 100 * high - value)


@contextmanager
def _styled(style: Mapping[Any, Any]) -> Iterator[None]:
    # Imported late: a committed report is not drawn again.
    import matplotlib as mpl

    with mpl.rc_context(dict(style)):
        yield


def _make_canvas(size: tuple[float, float]) -> Canvas:
    from matplotlib import figure as mpl_figure

    return mpl_figure.Figure(figsize=size, dpi=150, layout="constrained")


def _save(canvas: Canvas, kind: str, metadata: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=kind, metadata=dict(metadata))
    # Its next file has the same layout.
    canvas.set_layout_engine("none")
    return buffer.getvalue()
