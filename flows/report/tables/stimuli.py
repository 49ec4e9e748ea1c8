"""The table of meaningless images as vision towers see them, and a warning for each blank that is padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flows.report.document import Heading, ReportCell, ReportTable, head_numbers, make_row_groups
from flows.report.number_format import NONE
from tasks.report.model_names import shorten_models
from tasks.report.summary import StimulusSummary

NOTE = (
    "As the model’s vision tower sees them, behind its processor. Contrast: standard deviation over pixels in grey "
    "levels (of 0 to 255), the mean of the channels. Distinct tokens: different vectors among the image tokens, where "
    "they enter the decoder."
)


def make_stimulus_table(stimuli: Sequence[StimulusSummary]) -> ReportTable | None:
    """Make the table of a run's meaningless images; None if it has none or an earlier release measured them."""
    if not stimuli:
        return None
    return ReportTable(
        name="stimuli",
        title="Meaningless images",
        headings=(
            Heading(title="Image", numeric=False),
            *head_numbers("Size", "Pixel values by channel", "Contrast", "Image tokens", "Distinct tokens"),
        ),
        row_groups=make_row_groups(
            [(one.model, _write_stimulus(one)) for one in stimuli],
            shorten_models(list(dict.fromkeys(one.model for one in stimuli))),
        ),
        records=tuple(map(_flatten_stimulus, stimuli)),
        note=NOTE,
    )


def warn_of_padding(stimuli: Sequence[StimulusSummary]) -> list[str]:
    """Make one warning for each blank image that its model's processor padded."""
    return [
        f"The {one.image} image of {one.width} × {one.height} pixels is not one colour where the vision tower of "
        f"{one.model} sees it: its processor pads it (values {_write_range(one)} by channel). What is measured with it "
        "is not what a blank image does; leave images.size out, or see cmrm doctor."
        for one in stimuli
        if one.image.startswith("blank") and not one.uniform
    ]


def _write_stimulus(one: StimulusSummary) -> tuple[ReportCell, ...]:
    return (
        ReportCell(text=one.image),
        ReportCell(text=f"{one.width} × {one.height}"),
        ReportCell(text=_write_range(one)),
        ReportCell(text=_write_contrast(one)),
        ReportCell(text=f"{one.tokens:,}"),
        NONE if one.distinct is None else ReportCell(text=f"{one.distinct:,}"),
    )


def _write_range(one: StimulusSummary) -> str:
    """Write one number a channel if each has one value, else the lowest and the highest of each."""
    if one.uniform:
        return ", ".join(_number(low) for low in one.low)
    return ", ".join(
        f"{_number(low)} to {_number(high)}" for low, high in zip(one.low, one.high, strict=True)
    )


def _write_contrast(one: StimulusSummary) -> str:
    if one.contrast is None:
        return "unknown"
    measured = f"{sum(one.contrast) / len(one.contrast):.1f}"
    return measured if one.stated_contrast is None else f"{measured} (stated: {one.stated_contrast:g})"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _flatten_stimulus(one: StimulusSummary) -> dict[str, Any]:
    """One column a channel, as CSV has no lists."""
    record = asdict(one)
    for name in ("low", "high", "contrast"):
        values = record.pop(name) or ()
        record |= {f"{name}_{number}": value for number, value in enumerate(values, 1)}
    return record
