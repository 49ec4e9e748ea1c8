"""Tables for a terminal: one look for all of them, how wide each column is, and which columns fit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

# Width of a report's tables in terminal cells, whatever the terminal: what is copied from one fits into any.
WIDTH = 80
# Cells between two columns.
GAP = 2


@dataclass(frozen=True, kw_only=True)
class TableColumn:
    """A column and its widths in terminal cells: fixed (`width`), or that of its text between `narrowest` and `widest`.

    Text that is too long is folded, unless `no_wrap`.
    """

    title: str | Text = ""
    justify: Literal["left", "right"] = "left"
    width: int | None = None
    narrowest: int | None = None
    widest: int | None = None
    no_wrap: bool = False
    style: str = ""


def make_table(columns: Iterable[TableColumn], *, caption: Text | None = None) -> Table:
    """Make an empty table without lines; it has a header if a column has a title."""
    columns = list(columns)
    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, GAP, 0, 0),
        header_style="bold",
        show_header=any(column.title for column in columns),
        caption=caption,
        caption_justify="left",
    )
    for column in columns:
        table.add_column(
            column.title,
            justify=column.justify,
            width=column.width,
            min_width=column.narrowest,
            max_width=column.widest,
            no_wrap=column.no_wrap,
            overflow="ellipsis" if column.no_wrap else "fold",
            style=column.style,
        )
    return table


def measure_text(*texts: str | Text) -> int:
    """Measure the longest line of some texts in terminal cells, of which a character may take none or two."""
    plain = (text.plain if isinstance(text, Text) else text for text in texts)
    return max((cell_len(line) for text in plain for line in text.splitlines()), default=0)


def fit_widths(wanted: Sequence[int], narrowest: Sequence[int], *, width: int = WIDTH) -> list[int] | None:
    """Find the widths of columns side by side in `width` cells; None if even the narrowest ones do not fit."""
    widths = [min(pair) for pair in zip(wanted, narrowest, strict=True)]
    width_left = width - sum(widths) - GAP * (len(widths) - 1)
    if width_left < 0:
        return None
    # Widen the columns that lack least first, so that as many as possible are not folded.
    for index in sorted(range(len(widths)), key=lambda index: wanted[index] - widths[index]):
        more = min(width_left, wanted[index] - widths[index])
        widths[index] += more
        width_left -= more
    return widths


def choose_columns(first: int, widths: Sequence[int], *, width: int = WIDTH) -> list[int]:
    """Choose which columns fit beside a first one: each in the order given if it still fits, and one in any case."""
    chosen: list[int] = []
    for place, own in enumerate(widths):
        beside = [first, *(widths[one] for one in chosen), own]
        if not chosen or fit_widths(beside, beside, width=width) is not None:
            chosen.append(place)
    return chosen
