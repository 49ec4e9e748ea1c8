"""Every kind of defence gives the tokens of a naive, cache-free loop, whatever else is decoded beside it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import pytest

from tests.conformance.builders import NEED_TORCHVISION
from tests.conformance.defences import QUESTIONS, compare_family
from tests.conformance.examining import examine_elsewhere

FAMILIES = ("llava", "gemma3", "qwen2_5_vl")
KINDS = (
    *("addition", "ablation", "subspace", "cosine", "relu", "relu towards harmful"),
    *("random", "prompt", "coca", "coca, stronger"),
)


@cache
def compare_once(family: str) -> Mapping[str, Any]:
    """What the family's comparison came to; in a process with torchvision where its processor needs that."""
    if family not in NEED_TORCHVISION:
        return compare_family(family)
    (found,) = examine_elsewhere([family], program="tests.conformance.defences")
    return found


@pytest.mark.parametrize("shown", ["image", "text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_defences_together_give_the_tokens_of_a_naive_loop(family: str, shown: str) -> None:
    answers = compare_once(family)[shown]
    assert tuple(answers) == ("plain", *KINDS)
    found = {kind: one["found"] for kind, one in answers.items()}
    assert found == {kind: one["expected"] for kind, one in answers.items()}
    assert all(len(one) == len(QUESTIONS) for one in found.values())
    lengths = {len(tokens) for one in found.values() for tokens in one}
    assert len(lengths) > 1, "answers of several lengths were tried"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_defence_changes_answers_so_that_the_comparison_means_something(family: str, kind: str) -> None:
    for shown in ("image", "text"):
        answers = compare_once(family)[shown]
        changed = sum(
            one != plain for one, plain in zip(answers[kind]["found"], answers["plain"]["found"], strict=True)
        )
        assert changed > 0
