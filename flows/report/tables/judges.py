"""Tables and lines about judges: verdict counts, token cost, and agreement (Cohen's κ)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cmrm.statistics.paired_tests import Agreement
from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers, make_row_groups
from flows.report.number_format import NONE, percent, plain
from flows.report.tables.main import TITLES
from tasks.report.judge_costs import JudgeTotals
from tasks.report.model_names import shorten_models

Record = Mapping[str, Any]

# Most agreements in a terminal line.
MOST_PAIRS = 4
REVISION_DIGITS = 12
# Below this many dollars, four decimals are shown.
SMALL_SUM = 1.0
JUDGES_NOTE = (
    "Not applicable: answers of a kind that the judge does not judge; with parse errors, they are in no rate. "
    "Tokens are those that the judge’s model read and wrote, every attempt counted; spend is their price as the spec "
    "gives it."
)


def make_judges_table(judges: Sequence[JudgeTotals]) -> ReportTable | None:
    """Make the table of judges: kind and model, verdict counts, and token cost if a model was asked."""
    if not judges:
        return None
    models = any(one.model for one in judges)
    asked = any(one.prompt_tokens is not None for one in judges)
    return ReportTable(
        name="judges",
        title="Judges",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Judge", "Kind")),
            *(Heading(title=title, numeric=False) for title in ("Model", "Revision") if models),
            *head_numbers("Verdicts", "Parse errors", "Not applicable"),
            *(head_numbers("Tokens read", "Tokens written", "Spend ($)") if asked else ()),
        ),
        row_groups=(
            RowGroup(title="", rows=tuple(_write_judge(one, models=models, asked=asked) for one in judges)),
        ),
        records=tuple(map(asdict, judges)),
        note=JUDGES_NOTE,
    )


def make_agreement_table(agreement: Sequence[Record]) -> ReportTable | None:
    """Make the table of agreement between judges on the same answers."""
    if not agreement:
        return None
    names = shorten_models(list(dict.fromkeys(one["model"] for one in agreement)))
    return ReportTable(
        name="agreement",
        title="Agreement between judges",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Verdict", "Judges")),
            *head_numbers("Cohen’s κ", "Same verdict (%)", "Answers"),
        ),
        row_groups=make_row_groups([(one["model"], _write_agreement(one)) for one in agreement], names),
        records=tuple(agreement),
    )


def describe_agreement(agreement: Sequence[Record]) -> str:
    """Describe κ of each pair of judges and kind of verdict in one line; '' for one judge."""
    if not agreement:
        return ""
    names = shorten_models(list(dict.fromkeys(one["model"] for one in agreement)))
    described = [_describe_pair(one, names if len(names) > 1 else {}) for one in agreement[:MOST_PAIRS]]
    more = len(agreement) - len(described)
    return f"Agreement: {'; '.join(described)}{f'; {more} more in report.md' if more else ''}."


def describe_spend(judges: Sequence[JudgeTotals]) -> str:
    """Describe the token use and price of the judges' models in one line; '' if no model was asked."""
    asked = [one for one in judges if one.prompt_tokens is not None]
    spent = [
        f"{one.name} read {one.prompt_tokens:,} and wrote {one.completion_tokens:,}"
        + ("" if one.dollars is None else f" (${_dollars(one.dollars)})")
        for one in asked
    ]
    return f"Judges’ tokens: {'; '.join(spent)}." if spent else ""


def _write_judge(one: JudgeTotals, *, models: bool, asked: bool) -> tuple[ReportCell, ...]:
    revision = str(one.revision or "").removeprefix("sha256:")[:REVISION_DIGITS]
    named = tuple(ReportCell(text=text) if text else NONE for text in (one.model, revision))
    spent = (
        _count(one.prompt_tokens),
        _count(one.completion_tokens),
        NONE if one.dollars is None else ReportCell(text=_dollars(one.dollars)),
    )
    return (
        ReportCell(text=one.name),
        ReportCell(text=one.kind),
        *(named if models else ()),
        *(_count(number) for number in (one.verdicts, one.parse_errors, one.not_applicable)),
        *(spent if asked else ()),
    )


def _write_agreement(one: Record) -> tuple[ReportCell, ...]:
    found = _read_agreement(one)
    kappa = NONE
    if found.kappa is not None:
        kappa = ReportCell(text=plain(found.kappa), low=plain(found.low), high=plain(found.high))
    return (
        ReportCell(text=TITLES[one["kind"]]),
        ReportCell(text=f"{one['first']} and {one['second']}"),
        kappa,
        ReportCell(text=percent(found.observed)),
        _count(found.n),
    )


def _describe_pair(one: Record, names: Mapping[str, str]) -> str:
    found = _read_agreement(one)
    model = f", {names[one['model']]}" if names else ""
    said = (
        "same verdict throughout"
        if found.kappa is None
        else f"κ {ReportCell(text=plain(found.kappa), low=plain(found.low), high=plain(found.high))}"
    )
    return f"{one['first']} and {one['second']} ({TITLES[one['kind']].lower()}{model}) {said}, {found.n:,} answers"


def _read_agreement(one: Record) -> Agreement:
    return Agreement(**{name: one[name] for name in ("n", "observed", "kappa", "low", "high")})


def _dollars(value: float) -> str:
    return f"{value:,.2f}" if value >= SMALL_SUM or not value else f"{value:.4f}"


def _count(number: int | None) -> ReportCell:
    return NONE if number is None else ReportCell(text=f"{number:,}")
