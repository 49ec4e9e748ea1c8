"""Totals per judge: verdicts, parse errors, tokens and dollars."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store

# Verdicts that are not counted as such, and the names of their counts in a record.
APART = {"parse_error": "parse_errors", "not_applicable": "not_applicable"}
TOKENS = ("prompt_tokens", "completion_tokens")
MILLION = 1_000_000


@dataclass(frozen=True, kw_only=True)
class JudgeTotals:
    """One judge of a run: its settings, its verdicts by kind, and what its model read and wrote.

    Tokens are None if no model was called, `dollars` if the judge has no price.
    """

    name: str
    kind: str
    model: str | None
    revision: str | None
    verdicts: int
    parse_errors: int
    not_applicable: int
    prompt_tokens: int | None
    completion_tokens: int | None
    dollars: float | None


def describe_judges(
    store: Store,
    manifests: Sequence[Manifest],
    judges: Sequence[Mapping[str, Any]],
    *,
    texts: Sequence[Manifest] = (),
) -> list[JudgeTotals]:
    """Describe each judge: its settings, its verdicts by kind on answers, traces and questions, and their cost.

    `manifests` are of verdicts on answers, `texts` of those on traces and questions.

    `judges` are as returned by `JudgeUse.describe`; a `price` is in dollars per million tokens of `prompt` and of
    `completion`.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    tables = [*((one, "judgements") for one in manifests), *((one, "text_judgements") for one in texts)]
    for manifest, table in tables:
        rows = read_rows(store, manifest, table, ("judge", "verdict", *TOKENS))
        for group in rows.group_by(["judge", "verdict"]).aggregate([("verdict", "count")]).to_pylist():
            counts[group["judge"]][APART.get(group["verdict"], "verdicts")] += group["verdict_count"]
        for name in TOKENS:
            for group in (
                rows.filter(rows[name].is_valid()).group_by("judge").aggregate([(name, "sum")]).to_pylist()
            ):
                counts[group["judge"]][name] += group[f"{name}_sum"]
    return [_describe(judge, counts[judge["name"]]) for judge in judges]


def _describe(judge: Mapping[str, Any], counts: Mapping[str, int]) -> JudgeTotals:
    tokens = {name: counts.get(name) for name in TOKENS}
    return JudgeTotals(
        **{name: judge[name] for name in ("name", "kind", "model", "revision")},
        verdicts=counts.get("verdicts", 0),
        parse_errors=counts.get("parse_errors", 0),
        not_applicable=counts.get("not_applicable", 0),
        prompt_tokens=tokens["prompt_tokens"],
        completion_tokens=tokens["completion_tokens"],
        dollars=_add_up(judge["price"], tokens),
    )


def _add_up(price: Mapping[str, float] | None, tokens: Mapping[str, int | None]) -> float | None:
    if not price or None in tokens.values():
        return None
    return sum(
        (tokens[name] or 0) * float(price.get(name.removesuffix("_tokens"), 0)) / MILLION for name in TOKENS
    )
