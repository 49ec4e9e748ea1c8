"""Format percentages, scores, confidence intervals and p values for tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cmrm.statistics.paired_tests import Comparison
from cmrm.statistics.rates import Mean, Rate
from flows.report.document import ReportCell

NOT_MEASURED = "not measured"
NONE = ReportCell(text="–")


def write_value(value: Rate | Mean) -> ReportCell:
    """Format a rate in per cent or a mean in its own unit, with its interval and n."""
    if value.value is None:
        return ReportCell(text=NOT_MEASURED)
    if isinstance(value, Rate):
        low, high = value.interval or (None, None)
        return ReportCell(text=percent(value.value), low=percent(low), high=percent(high), count=value.n)
    return ReportCell(text=plain(value.value), low=plain(value.low), high=plain(value.high), count=value.n)


def write_json_value(content: Mapping[str, Any]) -> ReportCell:
    """Format a rate or mean from a summary's JSON."""
    return write_value(read_value(content))


def read_value(content: Mapping[str, Any]) -> Rate | Mean:
    """Read a rate or mean from a summary's JSON."""
    return Rate(**content) if "successes" in content else Mean(**content)


def write_change(change: Comparison) -> ReportCell:
    """Format a change: percentage points for verdicts, the scores' unit for scores."""
    show = signed_percent if change.kind == "mcnemar" else signed
    if change.change is None:
        return ReportCell(text=NOT_MEASURED)
    return ReportCell(text=show(change.change), low=show(change.low), high=show(change.high))


def write_before_after(change: Comparison) -> ReportCell:
    """Format before → after on the same samples."""
    show = percent if change.kind == "mcnemar" else plain
    if change.before is None or change.after is None:
        return ReportCell(text=NOT_MEASURED)
    return ReportCell(text=f"{show(change.before)} → {show(change.after)}", count=change.n)


def write_p(p: float | None) -> ReportCell:
    """Format a p value to three decimals."""
    if p is None:
        return NONE
    return ReportCell(text="< 0.001" if p < 0.001 else f"{p:.3f}")


def percent(value: float | None) -> str:
    """A fraction in per cent without the sign, '' for none."""
    return "" if value is None else _minus(f"{100 * value:.1f}")


def plain(value: float | None) -> str:
    """A number to two decimals, '' for none."""
    return "" if value is None else _minus(f"{value:.2f}")


def precise(value: float | None) -> str:
    """A number to three decimals, '' for none."""
    return "" if value is None else _minus(f"{value:.3f}")


def signed_percent(value: float | None) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return "" if value is None else _minus(f"{100 * value:+.1f}")


def signed(value: float | None) -> str:
    """A difference to two decimals, with its sign."""
    return "" if value is None else _minus(f"{value:+.2f}")


def _minus(text: str) -> str:
    """Use the typographic minus sign; a zero has no sign."""
    return text.lstrip("+-") if not float(text) else text.replace("-", "−")
