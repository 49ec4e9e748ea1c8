"""The tables of arms that other systems answered: what their files held, and their changes from the run's own arms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers, make_row_groups
from flows.report.number_format import write_before_after, write_change, write_p
from flows.report.tables.main import TITLES, flatten_change
from tasks.report.imported import ImportedArm, ImportedChange
from tasks.report.model_names import shorten_models

DIGEST_DIGITS = 12
ARMS_NOTE = (
    "Nothing here was answered by this run, and no steering is proved. Used: answers to the samples that this run "
    "answers. Anchors measure Δ and are never judged. Of no sample: answers left out since no sample of the run has "
    "their id, or the one that has it lacks what their condition shows. Samples without an "
    "answer are quarantined, with the reason."
)
CHANGES_NOTE = (
    "On the samples that have a verdict in both, under the same condition, by the first judge of each kind. Before: "
    "the run's own arm; after: the other system. Change in percentage points for rates (Newcombe's interval, exact "
    "McNemar test) and in the scores' own unit for scores (bootstrap interval, sign-flip test); p corrected by Holm "
    "over all comparisons of this table."
)


def make_imported_table(arms: Sequence[ImportedArm]) -> ReportTable | None:
    """Make the table of the files that other systems' answers come from; None without any."""
    if not arms:
        return None
    rows = tuple(
        (
            ReportCell(text=arm.name),
            ReportCell(text=arm.file),
            ReportCell(text=arm.digest[:DIGEST_DIGITS]),
            ReportCell(text=_describe_making(arm) or "–"),
            *(ReportCell(text=f"{count:,}") for count in (arm.answers, arm.used, arm.anchors)),
            ReportCell(text=f"{arm.unknown:,}" + (f" ({_name_some(arm)})" if arm.unknown else "")),
        )
        for arm in arms
    )
    return ReportTable(
        name="imported",
        title="Files of answers",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("", "File", "sha256", "Made by")),
            *head_numbers("Answers", "Used", "To anchors", "Of no sample"),
        ),
        row_groups=(RowGroup(title="", rows=rows),),
        records=tuple(_record(arm) for arm in arms),
        note=ARMS_NOTE,
    )


def describe_left_out(arms: Sequence[ImportedArm]) -> Iterator[str]:
    """Say of each arm of which answers were left out how many, and name some."""
    for arm in arms:
        if arm.used < arm.answers:
            yield (
                f"{arm.name}: {arm.used:,} of {arm.answers:,} answers used; not used: {arm.anchors:,} to anchors, "
                f"{arm.unknown:,} to no sample that is asked"
                + (f" ({_name_some(arm)})." if arm.unknown else ".")
            )


def make_imported_changes_table(changes: Sequence[ImportedChange]) -> ReportTable | None:
    """Make the table of other systems' answers against the run's own, in pairs; None if there are none."""
    if not changes:
        return None
    names = shorten_models(list(dict.fromkeys(one.against for one in changes)))
    rows = [
        (
            one.model,
            (
                ReportCell(text=f"{names[one.against]}: {one.name}"),
                ReportCell(text=" ".join(filter(None, (TITLES[one.measure], one.dataset)))),
                write_before_after(one.comparison),
                write_change(one.comparison),
                write_p(one.comparison.p),
                write_p(one.comparison.p_adjusted),
            ),
        )
        for one in changes
    ]
    return ReportTable(
        name="imported-changes",
        title="Other systems against this run's arms, in pairs",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Against", "Measure")),
            *head_numbers("Before → after (n)", "Change", "p", "p corrected"),
        ),
        # Each system has its heading, one alone too: no cell names it.
        row_groups=tuple(
            RowGroup(title=model, rows=group.rows)
            for model, group in zip(
                dict.fromkeys(model for model, _ in rows), make_row_groups(rows), strict=True
            )
        ),
        records=tuple(_record_change(one) for one in changes),
        note=CHANGES_NOTE,
    )


def _describe_making(arm: ImportedArm) -> str:
    return ", ".join(
        arm.made_by[name]
        for name in ("model", "task", "eval_id", "created", "packages")
        if name in arm.made_by
    )


def _name_some(arm: ImportedArm) -> str:
    return ", ".join(arm.named) + ("" if arm.unknown <= len(arm.named) else ", …")


def _record(arm: ImportedArm) -> Mapping[str, Any]:
    own = {name: getattr(arm, name) for name in ("name", "file", "digest", "kind")}
    counts = {name: getattr(arm, name) for name in ("answers", "used", "anchors", "unknown")}
    return {**own, "made_by": _describe_making(arm), **counts, "named": ", ".join(arm.named)}


def _record_change(one: ImportedChange) -> Mapping[str, Any]:
    names = ("model", "condition", "against", "intervention", "alpha", "name", "measure", "dataset", "judge")
    return {**{name: getattr(one, name) for name in names}, **flatten_change(one.comparison)}
