"""Directions for a terminal: AUROC of the probes in each arm, and where answers that turned unsafe lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.text import Text

from flows.report.number_format import plain
from flows.report.tables.directions import list_shown, name_arm_of
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.report.directions import choose_rows
from tasks.report.model_names import shorten_models

if TYPE_CHECKING:
    from rich.table import Table as Grid

Record = Mapping[str, Any]
WIDEST_NAME = 20


def render_directions(rows: Sequence[Record], turned: Sequence[Record]) -> Iterator[Grid]:
    """Render tables for a terminal of 80 columns: for each model AUROC at some blocks, and places at the last one."""
    chosen = choose_rows(rows)
    names = shorten_models(list(dict.fromkeys(row["model"] for row in chosen)))
    for model, name in names.items():
        of = f" of {show_safely(name)}" if len(names) > 1 else ""
        yield _render_auroc([row for row in chosen if row["model"] == model], of)
        if own := [row for row in turned if row["model"] == model]:
            yield _render_turned(own, of)


def _render_auroc(rows: Sequence[Record], of: str) -> Grid:
    blocks = list_shown(rows)
    grid = make_table(
        [
            TableColumn(title="AUROC", widest=WIDEST_NAME),
            *(TableColumn(title=f"Block {block}", justify="right", no_wrap=True) for block in blocks),
        ],
        caption=Text(
            f"Probes for harmful against harmless states{of}, on samples that they were not trained on "
            "[95 % interval]."
        ),
    )
    lines: dict[str, dict[int, Record]] = {}
    for row in rows:
        lines.setdefault(name_arm_of(row), {})[row["block"]] = row
    for name, found in lines.items():
        grid.add_row(Text(show_safely(name)), *(_show(found.get(block), "auroc") for block in blocks))
    return grid


def _render_turned(rows: Sequence[Record], of: str) -> Grid:
    last = max(row["block"] for row in rows)
    grid = make_table(
        [
            TableColumn(title="Turned unsafe", widest=WIDEST_NAME),
            *(
                TableColumn(title=title, justify="right", no_wrap=True)
                for title in ("Turned", "Stayed", "Turned lie at", "Stayed lie at")
            ),
        ],
        caption=Text(
            f"Harmful questions{of} that were answered safely as text, at block {last} along the text direction: 0 is "
            "the mean of harmless anchors, 1 that of harmful ones [95 % bootstrap interval]."
        ),
    )
    for row in rows:
        if row["block"] == last:
            places = (_show(row, name) for name in ("turned_along", "stayed_along"))
            grid.add_row(Text(show_safely(name_arm_of(row))), str(row["turned"]), str(row["stayed"]), *places)
    return grid


def _show(row: Record | None, name: str) -> str:
    if row is None or row[name] is None:
        return "–"
    low, high = plain(row[f"{name}_low"]), plain(row[f"{name}_high"])
    return f"{plain(row[name])} [{low}, {high}]" if low and high else plain(row[name])
