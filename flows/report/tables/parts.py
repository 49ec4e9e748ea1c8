"""The table of Δ's parts: positions, marks and image, at each block of each model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers
from flows.report.number_format import NONE, percent, plain
from tasks.report.model_names import shorten_models
from tasks.report.parts import group_parts

Record = Mapping[str, Any]
NAMES = {"all": "Δ", "filler": "(filler text)"}


def make_parts_tables(rows: Sequence[Record]) -> Iterator[ReportTable]:
    """Make one table for each model and meaningless image."""
    names = shorten_models(list(dict.fromkeys(row["model"] for row in rows)))
    for number, ((model, image), own) in enumerate(group_parts(rows).items()):
        of = f", {names[model]}" if len(names) > 1 else ""
        yield ReportTable(
            name=f"parts-{number + 1}",
            title=f"Parts of Δ: {image}{of}",
            headings=(
                Heading(title="Block", numeric=False),
                Heading(title="Part", numeric=False),
                *head_numbers("Length", "Share of Δ", "Cosine with Δ"),
            ),
            row_groups=(RowGroup(title="", rows=tuple(map(_write_row, own))),),
            records=tuple(dict(row) for row in own),
            note=f"Over {own[0]['anchors']:,} anchors, with 95 % bootstrap intervals. Δ = positions + marks + image: "
            "the positions that the image takes, what the template puts around it, and its own tokens. The share, in "
            "%, is what a part adds along Δ; the shares of the three add up to 100 %, and one may be below 0. Filler "
            "text, as many tokens as the image has, is no part: it is what Δ is compared with.",
        )


def _write_row(row: Record) -> tuple[ReportCell, ...]:
    return (
        ReportCell(text=str(row["block"])),
        ReportCell(text=NAMES.get(str(row["part"]), str(row["part"]))),
        _write(row, "norm", plain),
        _write(row, "share", percent),
        _write(row, "cosine", plain),
    )


def _write(row: Record, name: str, show: Any) -> ReportCell:
    if row[name] is None:
        return NONE
    return ReportCell(text=show(row[name]), low=show(row[f"{name}_low"]), high=show(row[f"{name}_high"]))
