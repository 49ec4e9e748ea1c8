"""The parts of Δ for a terminal: a table for each model and meaningless image, one line a block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from cmrm.steering.parts import PARTS
from flows.report.number_format import percent, plain
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.report.model_names import shorten_models
from tasks.report.parts import choose_blocks, group_parts, index_block, list_blocks

if TYPE_CHECKING:
    from rich.table import Table as Grid

Record = Mapping[str, Any]
MOST_BLOCKS = 16


def render_parts(rows: Sequence[Record]) -> Iterator[Grid]:
    """Render tables for a terminal of 80 columns: Δ's length, and the share of each part with its interval."""
    names = shorten_models(list(dict.fromkeys(row["model"] for row in rows)))
    for (model, image), own in group_parts(rows).items():
        blocks = list(list_blocks(own))
        shown = choose_blocks(blocks, MOST_BLOCKS)
        of = f" of {names[model]}" if len(names) > 1 else ""
        # One paragraph, which wraps where the table ends: names are of any length.
        caption = (
            f"Δ of {image}{of}, {own[0]['anchors']} anchors: share of each part in % [95 % bootstrap interval]; "
            "positions, marks and image add up to Δ."
        )
        if len(shown) < len(blocks):
            caption += f" {len(shown)} of {len(blocks)} blocks; report.md has all."
        grid = make_table(
            [
                TableColumn(title="Block", justify="right"),
                TableColumn(title="|Δ|", justify="right", no_wrap=True),
                *(TableColumn(title=part.capitalize(), justify="right", no_wrap=True) for part in PARTS),
                TableColumn(title="Sum", justify="right", no_wrap=True),
            ],
            caption=Text(show_safely(caption)),
        )
        for block in shown:
            found = index_block(own, block)
            shares = [found[part]["share"] for part in PARTS]
            grid.add_row(
                str(block),
                plain(found["all"]["norm"]),
                *(_show_share(found[part]) for part in PARTS),
                "–" if None in shares else percent(sum(shares)),
            )
        yield grid


def _show_share(row: Record) -> str:
    if row["share"] is None:
        return "–"
    low, high = percent(row["share_low"]), percent(row["share_high"])
    return f"{percent(row['share'])} [{low}, {high}]" if low and high else percent(row["share"])
