"""Tables and lines about the judges: what each said and cost, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmrm.comparisons import Agreement
from flows.document import Band, Heading, Measure, Sheet, head_numbers, make_bands, shorten_models
from flows.main_sheets import TITLES
from flows.wording import NONE, percent, plain

Record = Mapping[str, Any]

# Agreements that a terminal has room for.
MOST_PAIRS = 4
REVISION_DIGITS = 12
# Dollars below which two decimals would say nothing.
SMALL_SUM = 1.0
JUDGES_NOTE = (
    "Not applicable: answers of a kind that the judge does not judge; with parse errors, they are in no rate. "
    "Tokens are those that the judge’s model read and wrote, every attempt counted; spend is their price as the spec "
    "gives it."
)


def make_judges_sheet(judges: Sequence[Record]) -> Sheet | None:
    """The judges: what they are, how much they said, and what that cost where a model was asked."""
    if not judges:
        return None
    models = any(one["model"] for one in judges)
    asked = any(one["prompt_tokens"] is not None for one in judges)
    return Sheet(
        name="judges",
        title="Judges",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Judge", "Kind")),
            *(Heading(title=title, numeric=False) for title in ("Model", "Revision") if models),
            *head_numbers("Verdicts", "Parse errors", "Not applicable"),
            *(head_numbers("Tokens read", "Tokens written", "Spend ($)") if asked else ()),
        ),
        bands=(Band(title="", rows=tuple(_write_judge(one, models=models, asked=asked) for one in judges)),),
        records=tuple(judges),
        note=JUDGES_NOTE,
    )


def make_agreement_sheet(agreement: Sequence[Record]) -> Sheet | None:
    """How far judges agree about the same answers."""
    if not agreement:
        return None
    names = shorten_models(list(dict.fromkeys(one["model"] for one in agreement)))
    return Sheet(
        name="agreement",
        title="Agreement between judges",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Verdict", "Judges")),
            *head_numbers("Cohen’s κ", "Same verdict (%)", "Answers"),
        ),
        bands=make_bands([(one["model"], _write_agreement(one)) for one in agreement], names),
        records=tuple(agreement),
    )


def describe_agreement(agreement: Sequence[Record]) -> str:
    """One line: κ of each pair of judges and kind of verdict, safety first; '' for one judge."""
    if not agreement:
        return ""
    names = shorten_models(list(dict.fromkeys(one["model"] for one in agreement)))
    told = [_tell_agreement(one, names if len(names) > 1 else {}) for one in agreement[:MOST_PAIRS]]
    more = len(agreement) - len(told)
    return f"Agreement: {'; '.join(told)}{f'; {more} more in report.md' if more else ''}."


def describe_spend(judges: Sequence[Record]) -> str:
    """One line: tokens of the judges' models, and dollars where a price is known; '' where no model was asked."""
    asked = [one for one in judges if one["prompt_tokens"] is not None]
    told = [
        f"{one['name']} read {one['prompt_tokens']:,} and wrote {one['completion_tokens']:,}"
        + ("" if one["dollars"] is None else f" (${_dollars(one['dollars'])})")
        for one in asked
    ]
    return f"Judges’ tokens: {'; '.join(told)}." if told else ""


def _write_judge(one: Record, *, models: bool, asked: bool) -> tuple[Measure, ...]:
    revision = str(one["revision"] or "").removeprefix("sha256:")[:REVISION_DIGITS]
    named = tuple(Measure(text=text) if text else NONE for text in (one["model"], revision))
    spent = (
        _count(one["prompt_tokens"]),
        _count(one["completion_tokens"]),
        NONE if one["dollars"] is None else Measure(text=_dollars(one["dollars"])),
    )
    return (
        Measure(text=one["name"]),
        Measure(text=one["kind"]),
        *(named if models else ()),
        *(_count(one[name]) for name in ("verdicts", "parse_errors", "not_applicable")),
        *(spent if asked else ()),
    )


def _write_agreement(one: Record) -> tuple[Measure, ...]:
    found = _read_agreement(one)
    kappa = NONE
    if found.kappa is not None:
        kappa = Measure(text=plain(found.kappa), low=plain(found.low), high=plain(found.high))
    return (
        Measure(text=TITLES[one["kind"]]),
        Measure(text=f"{one['first']} and {one['second']}"),
        kappa,
        Measure(text=percent(found.observed)),
        _count(found.n),
    )


def _tell_agreement(one: Record, names: Mapping[str, str]) -> str:
    found = _read_agreement(one)
    model = f", {names[one['model']]}" if names else ""
    said = (
        "same verdict throughout"
        if found.kappa is None
        else f"κ {Measure(text=plain(found.kappa), low=plain(found.low), high=plain(found.high))}"
    )
    return f"{one['first']} and {one['second']} ({TITLES[one['kind']].lower()}{model}) {said}, {found.n:,} answers"


def _read_agreement(one: Record) -> Agreement:
    return Agreement(**{name: one[name] for name in ("n", "observed", "kappa", "low", "high")})


def _dollars(value: float) -> str:
    return f"{value:,.2f}" if value >= SMALL_SUM or not value else f"{value:.4f}"


def _count(number: int | None) -> Measure:
    return NONE if number is None else Measure(text=f"{number:,}")
