"""Tokens that an answer costs: read in prompts and generated, over all generations of a defence."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest, read_rows
from storage.store import Store
from tasks.core.stage_name import StageName
from tasks.report.outcomes import Arm

COLUMNS = ("model", "condition", "intervention", "alpha", "sample_id", "tokens", "prompt_tokens")
CAPTIONED = ("sample_id", "tokens", "prompt_tokens")
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class TokenCount:
    """Mean tokens of an answer: of its prompts, image tokens included, and generated; None is unknown."""

    prompt: float | None
    generated: float | None


def count_tokens(store: Store, answered: Iterable[Manifest]) -> dict[Arm, TokenCount]:
    """Average the tokens of an answer by arm, with those of the steps before it, from manifests of `generate`.

    A caption of the run counts for each answer that is made from it.
    """
    return average_tokens(
        (rows, _read_earlier(store, made, rows)) for made in answered for rows in [_read(store, made)]
    )


def average_tokens(generations: Iterable[tuple[Rows, Rows]]) -> dict[Arm, TokenCount]:
    """Average over answers, given with the rows of the steps before them; rows are of `responses`.

    An answer of a step before that has a prompt of 0 tokens stands for an earlier one, and cost nothing. Steps of
    samples without an answer are passed over. Files of earlier releases have no counts of prompts.
    """
    answers: dict[Arm, int] = defaultdict(int)
    spent: dict[Arm, list[tuple[int | None, int | None]]] = defaultdict(list)
    for rows, earlier in generations:
        samples = {row["sample_id"] for row in rows}
        for row in rows:
            arm = Arm(row["model"], row["condition"], row["intervention"], row["alpha"])
            answers[arm] += 1
            spent[arm].append(_count(row, stepped=bool(earlier)))
        if rows:
            spent[arm] += [_count(row, stepped=True) for row in earlier if row["sample_id"] in samples]
    return {
        arm: TokenCount(
            prompt=_average((prompt for prompt, _ in spent[arm]), count),
            generated=_average((generated for _, generated in spent[arm]), count),
        )
        for arm, count in answers.items()
    }


def _count(row: Mapping[str, Any], *, stepped: bool) -> tuple[int | None, int | None]:
    prompt = row["prompt_tokens"]
    if prompt == 0:
        return 0, 0
    # Without a count of the prompt, nobody knows whether a step's answer stands for an earlier one.
    return prompt, None if stepped and prompt is None else row["tokens"]


def _average(counts: Iterable[int | None], answers: int) -> float | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total / answers


def _read_earlier(store: Store, made: Manifest, rows: Rows) -> Rows:
    """Read what was generated before the answers of a manifest."""
    stands = {row["sample_id"] for row in rows if row["prompt_tokens"] == 0}
    earlier: list[Mapping[str, Any]] = []
    for key in ((made.content["intervention"] or {}).get("earlier") or {}).values():
        if store.look_up(StageName.GENERATE, key) is not None:
            earlier += _read(store, need_manifest(store, StageName.GENERATE, key))
        else:
            captions = read_rows(store, need_manifest(store, StageName.CAPTION, key), "captions", CAPTIONED)
            earlier += [row for row in captions.to_pylist() if row["sample_id"] not in stands]
    return earlier


def _read(store: Store, made: Manifest) -> Rows:
    rows: Rows = read_rows(store, made, "responses", COLUMNS).to_pylist()
    return rows
