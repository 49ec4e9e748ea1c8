"""How many answers to label: expected interval widths of a drawn sheet, and the labels that a width takes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from cmrm.statistics.label_counts import ExpectedWidths, count_labels, expect_widths
from tasks.calibrate.frame import SIDES
from tasks.calibrate.sheet import Sheet


@dataclass(frozen=True, kw_only=True)
class LabelPlan:
    """Expected widths if the whole sheet is labelled, and the labels that make intervals no wider than `width`.

    `widths` and `needed` are None where the judge gave one verdict throughout.
    """

    width: float
    widths: ExpectedWidths | None
    needed: int | None


def plan_labels(sheet: Sheet, *, width: float) -> LabelPlan:
    """Plan the labels of a sheet for intervals of `width` over all arms, by the first judge's verdicts."""
    answers = dict.fromkeys(SIDES, 0)
    squares = dict.fromkeys(SIDES, 0.0)
    drawn = Counter(row.stratum for row in sheet.rows)
    for stratum, count in sheet.strata.items():
        if stratum.verdict in answers:
            answers[stratum.verdict] += count
            squares[stratum.verdict] += count**2 / drawn[stratum]
    if not all(answers.values()):
        return LabelPlan(width=width, widths=None, needed=None)
    # Answers of large strata stand for more others, so that a sheet tells as much as this many drawn evenly.
    flagged, passed = (answers[side] ** 2 / squares[side] for side in SIDES)
    share = answers["unsafe"] / sum(answers.values())
    labels = sum(count for stratum, count in drawn.items() if stratum.verdict in answers)
    needed = count_labels(width, share, flagged_labels=flagged, passed_labels=passed)
    return LabelPlan(
        width=width,
        widths=expect_widths(share, flagged_labels=flagged, passed_labels=passed),
        needed=round(needed * labels / (flagged + passed)),
    )
