"""The table of the captions that a run generated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from flows.report.document import Heading, ReportCell, ReportTable, head_numbers, make_row_groups
from flows.report.number_format import NOT_MEASURED
from tasks.report.captions import CaptionSummary
from tasks.report.model_names import shorten_models


def make_captions_table(captions: Sequence[CaptionSummary]) -> ReportTable | None:
    """Make the table of generated captions: by whom, of which data set, how asked for, and how many."""
    if not captions:
        return None
    models = list(dict.fromkeys(one.model for one in captions))
    names = ", ".join(models)
    return ReportTable(
        name="captions",
        title="Generated captions",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Data set", "Style", "Asked")),
            *head_numbers("Captions", "Cut short", "Quarantined", "Tokens"),
        ),
        row_groups=make_row_groups(
            [(one.model, _write(one)) for one in captions],
            shorten_models(models),
        ),
        records=tuple(map(asdict, captions)),
        note=f"Written by {names}. Shown under the condition caption to the samples that came without a caption, or to "
        "all with an image if the spec says so. Cut short are captions that ended at the most tokens; quarantined are "
        "images that got none; tokens are the mean of a caption.",
    )


def _write(one: CaptionSummary) -> tuple[ReportCell, ...]:
    return (
        *(ReportCell(text=text) for text in (one.dataset, one.style, one.prompt)),
        *(ReportCell(text=f"{number:,}") for number in (one.captions, one.cut, one.quarantined)),
        ReportCell(text=NOT_MEASURED if one.tokens is None else f"{one.tokens:.1f}"),
    )
