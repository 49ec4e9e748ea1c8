"""Estimates and corrected rates as text: per cent with 95 % intervals, marks for few labels and clipped rates."""

from __future__ import annotations

import math

from cmrm.statistics.judge_errors import Corrected, Estimate
from cmrm.statistics.rates import Rate
from flows.report.number_format import plain
from tasks.calibrate.calibration import FEW, is_few

NONE = "–"
FEW_MARK = "*"
CLIPPED_MARK = "†"
NOT_CORRECTED = "not correctable"
NOTES = {
    FEW_MARK: f"{FEW_MARK} fewer than {FEW} labels of such answers: too few to quote",
    CLIPPED_MARK: f"{CLIPPED_MARK} outside 0–100 % before clipping: errors over all arms may not fit here",
    NOT_CORRECTED: f"{NOT_CORRECTED}: sensitivity + specificity ≤ 100 %, so the verdicts say nothing",
    NONE: f"{NONE} no labels to tell from",
}


def write_share(value: float | None, low: float | None, high: float | None) -> str:
    """Write a fraction in per cent with its interval, rounded outwards so that it never narrows."""
    if value is None or low is None or high is None:
        return NONE
    # 1e-9 absorbs the rounding error of a whole number.
    return f"{100 * value:.1f} [{math.floor(100 * low + 1e-9)}–{math.ceil(100 * high - 1e-9)}]"


def write_error(estimate: Estimate) -> str:
    """Write a sensitivity or specificity with its interval and number of labels, marked where these are few."""
    if estimate.value is None:
        return NONE
    shown = write_share(estimate.value, estimate.low, estimate.high)
    return f"{shown} {estimate.n:,}{FEW_MARK if is_few(estimate) else ''}"


def write_judged(rate: Rate) -> str:
    """Write the rate that a judge gave, with Wilson's interval."""
    return write_share(rate.value, *(rate.interval or (None, None)))


def write_corrected(rate: Corrected) -> str:
    """Write a corrected rate, marked where it was clipped, or that there is none."""
    if rate.value is None:
        return NOT_CORRECTED if rate.reason.startswith("cannot") else NONE
    return f"{write_share(rate.value, rate.low, rate.high)}{CLIPPED_MARK if rate.clipped else ''}"


def write_kappa(value: float | None, low: float | None, high: float | None) -> str:
    """Write κ with its interval."""
    if value is None:
        return "undefined"
    return plain(value) if low is None or high is None else f"{plain(value)} [{plain(low)}, {plain(high)}]"


def list_notes(cells: list[str]) -> list[str]:
    """List what the marks in some cells mean, each that occurs once."""
    return [
        note
        for mark, note in NOTES.items()
        if any(cell == mark if mark == NONE else mark in cell for cell in cells)
    ]
