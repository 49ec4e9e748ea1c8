"""Every kind of defence gives the tokens of a naive, cache-free loop, whatever else is decoded beside it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.conformance.defences import FAMILIES, QUESTIONS
from tests.conformance.examining import Examined

EXAMINED = ("defences",)
KINDS = (
    *("addition", "ablation", "subspace", "cosine", "relu", "relu towards harmful"),
    *("random", "prompt", "coca", "coca, stronger"),
)


@pytest.mark.parametrize("shown", ["image", "text"])
@pytest.mark.parametrize("family", FAMILIES)
def test_all_defences_together_give_the_tokens_of_a_naive_loop(
    examine: Callable[[str], Examined], family: str, shown: str
) -> None:
    answers = examine("defences")[family][shown]
    assert tuple(answers) == ("plain", *KINDS)
    found = {kind: one["found"] for kind, one in answers.items()}
    assert found == {kind: one["expected"] for kind, one in answers.items()}
    assert all(len(one) == len(QUESTIONS) for one in found.values())
    lengths = {len(tokens) for one in found.values() for tokens in one}
    assert len(lengths) > 1, "answers of several lengths were tried"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_defence_changes_answers_so_that_the_comparison_means_something(
    examine: Callable[[str], Examined], family: str, kind: str
) -> None:
    for shown in ("image", "text"):
        answers = examine("defences")[family][shown]
        changed = sum(
            one != plain for one, plain in zip(answers[kind]["found"], answers["plain"]["found"], strict=True)
        )
        assert changed > 0
