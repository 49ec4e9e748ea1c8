"""The table of text-only models beside those of the run: their states against the models', block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers
from flows.report.number_format import NONE, percent, plain, precise
from tasks.report.backbones import Backbone, BackboneBlock
from tasks.report.model_names import shorten_model

SHOWN = {
    "model": "It was shown that model's text prompts, token by token, so that the two differ in their weights alone.",
    "own": "It was asked by its own chat template, so that its prompts differ from that model's as well.",
}


def describe_backbones(backbones: Sequence[Backbone]) -> Iterator[str]:
    """Say of each backbone what it is, whose prompts it was shown, and why its states are not compared."""
    for one in backbones:
        name, of = shorten_model(one.name), shorten_model(one.of)
        not_compared = f" Its states are not compared: {one.unlike}." if one.unlike else ""
        yield (
            f"{name} is the text-only model {one.record['id']} beside {of}, without image and steering. "
            f"{SHOWN[one.template]} Changes of its rows are from the same rows of {of}.{not_compared}"
        )


def make_backbone_tables(blocks: Sequence[BackboneBlock]) -> Iterator[ReportTable]:
    """Make one table for each backbone whose states were compared."""
    for number, name in enumerate(dict.fromkeys(one.model for one in blocks)):
        own = [one for one in blocks if one.model == name]
        images = list(own[0].images)
        yield ReportTable(
            name=f"backbones-{number + 1}",
            title=f"What visual training moved: {shorten_model(name)} → {shorten_model(own[0].of)}",
            headings=(
                Heading(title="Block", numeric=False),
                *head_numbers(
                    "Length",
                    "Cosine",
                    "Least cosine",
                    "Difference",
                    "Mean shift",
                    *(f"|Δ| {one}" for one in images),
                ),
            ),
            row_groups=(RowGroup(title="", rows=tuple(_write_row(one) for one in own)),),
            records=tuple(
                {
                    "model": one.model,
                    "of": one.of,
                    "block": one.block,
                    "samples": one.samples,
                    "state": one.state,
                    "cosine": one.cosine,
                    "least_cosine": one.least,
                    "relative_distance": one.relative,
                    "mean_shift": one.shift,
                    **{f"delta_{image}": one.images[image] for image in images},
                }
                for one in own
            ),
            note=f"States at the last prompt token of {own[0].samples:,} anchors as text, of the two models. Length: "
            "of the backbone's states. Difference: of one state from the other, in % of the backbone's length, mean "
            "over the anchors. Mean shift: the length of the mean difference, to be held against |Δ|, the mean shift "
            "that a meaningless image makes on the same anchors.",
        )


def _write_row(one: BackboneBlock) -> tuple[ReportCell, ...]:
    return (
        ReportCell(text=str(one.block)),
        _write(one.state),
        _write_cosine(one.cosine),
        _write_cosine(one.least),
        NONE if one.relative is None else ReportCell(text=percent(one.relative)),
        _write(one.shift),
        *(_write(length) for length in one.images.values()),
    )


def _write(value: float) -> ReportCell:
    return ReportCell(text=plain(value))


def _write_cosine(value: float | None) -> ReportCell:
    return NONE if value is None else ReportCell(text=precise(value))
