"""What judges said in all, and what their models were asked: verdicts, parse errors, tokens and dollars."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from storage.manifest import Manifest
from storage.rows import read_rows
from storage.store import Store

# Verdicts that are none, by what a record calls their number.
APART = {"parse_error": "parse_errors", "not_applicable": "not_applicable"}
TOKENS = ("prompt_tokens", "completion_tokens")
MILLION = 1_000_000


def describe_judges(
    store: Store, manifests: Sequence[Manifest], judges: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One record a judge: what it is, and how many rows of `judgements` it gave of which kind, at what cost.

    `judges` are as `JudgeUse.describe` gives them. Tokens are None where no model was asked, and `dollars` where the
    judge has no `price` (dollars for a million tokens of `prompt` and of `completion`).
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for manifest in manifests:
        rows = read_rows(store, manifest, "judgements", ("judge", "verdict", *TOKENS))
        for group in rows.group_by(["judge", "verdict"]).aggregate([("verdict", "count")]).to_pylist():
            counts[group["judge"]][APART.get(group["verdict"], "verdicts")] += group["verdict_count"]
        for name in TOKENS:
            for group in (
                rows.filter(rows[name].is_valid()).group_by("judge").aggregate([(name, "sum")]).to_pylist()
            ):
                counts[group["judge"]][name] += group[f"{name}_sum"]
    return [_describe(judge, counts[judge["name"]]) for judge in judges]


def _describe(judge: Mapping[str, Any], counts: Mapping[str, int]) -> dict[str, Any]:
    tokens = {name: counts.get(name) for name in TOKENS}
    return {
        **{name: judge[name] for name in ("name", "kind", "model", "revision")},
        **{name: counts.get(name, 0) for name in ("verdicts", *APART.values())},
        **tokens,
        "dollars": _add_up(judge["price"], tokens),
    }


def _add_up(price: Mapping[str, float] | None, tokens: Mapping[str, int | None]) -> float | None:
    if not price or None in tokens.values():
        return None
    return sum(
        (tokens[name] or 0) * float(price.get(name.removesuffix("_tokens"), 0)) / MILLION for name in TOKENS
    )
