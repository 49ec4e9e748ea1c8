"""A figure as files: SVG for papers, PNG for screens, CSV of its data."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

# Okabe and Ito's palette, safe for colour-blind readers.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
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


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawn figure: its file name, a caption of one sentence, and its files' bytes."""

    name: str
    caption: str
    svg: bytes
    png: bytes
    data: bytes


def draw_figure(
    *,
    name: str,
    caption: str,
    rows: int,
    columns: int,
    size: tuple[float, float],
    draw: Callable[[list[list[Axes]]], None],
    data: Sequence[Mapping[str, Any]],
) -> Figure:
    """Draw panels of `size` inches each; `draw` gets the axes [rows][columns], `data` is what they show."""
    # Imported late: a committed report is not drawn again.
    import matplotlib as mpl
    from matplotlib import figure as mpl_figure

    with mpl.rc_context(STYLE):
        canvas = mpl_figure.Figure(figsize=(size[0] * columns, size[1] * rows), dpi=150, layout="constrained")
        draw(canvas.subplots(rows, columns, squeeze=False).tolist())
        # Without version and date, the bytes are reproducible.
        return Figure(
            name=name,
            caption=caption,
            svg=_save(canvas, "svg", {"Date": None, "Creator": None}),
            png=_save(canvas, "png", {"Software": None}),
            data=to_csv(data),
        )


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


def _save(canvas: Canvas, kind: str, metadata: Mapping[str, Any]) -> bytes:
    buffer = io.BytesIO()
    canvas.savefig(buffer, format=kind, metadata=dict(metadata))
    return buffer.getvalue()
