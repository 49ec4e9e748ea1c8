"""Tokens of an answer: those of every generation before it count, and an answer that stands costs nothing."""

from __future__ import annotations

from typing import Any

from tasks.report.outcomes import Arm
from tasks.report.tokens import TokenCount, average_tokens

PLAIN = Arm("moon@1", "image", "")
GUARD = Arm("moon@1", "image", "guard")


def rows(arm: Arm, *counts: tuple[str, int | None, int | None]) -> list[dict[str, Any]]:
    """Rows of `responses`: sample, tokens of the prompt, generated tokens."""
    return [
        {**arm._asdict(), "sample_id": sample, "prompt_tokens": prompt, "tokens": tokens}
        for sample, prompt, tokens in counts
    ]


def test_steps_before_an_answer_count_and_an_answer_that_stands_does_not() -> None:
    plain = rows(PLAIN, ("a", 10, 4), ("b", 20, 6), ("c", 30, 8))
    judged = rows(GUARD, ("a", 50, 1), ("b", 60, 1), ("c", 70, 1))
    # The plain answer to a stands; c has no answer in the end.
    again = rows(GUARD, ("a", 0, 4), ("b", 40, 9))
    found = average_tokens([(plain, []), (again, [*plain, *judged])])
    assert found == {
        PLAIN: TokenCount(prompt=60 / 3, generated=18 / 3),
        GUARD: TokenCount(prompt=(10 + 20 + 50 + 60 + 40) / 2, generated=(4 + 6 + 1 + 1 + 9) / 2),
    }


def test_shards_of_an_arm_are_averaged_together() -> None:
    found = average_tokens([(rows(PLAIN, ("a", 10, 4)), []), (rows(PLAIN, ("b", 20, 5), ("c", 30, 6)), [])])
    assert found == {PLAIN: TokenCount(prompt=20.0, generated=5.0)}


def test_files_without_counts_of_prompts_give_none_and_no_count_of_steps_either() -> None:
    plain, again = rows(PLAIN, ("a", None, 4)), rows(GUARD, ("a", None, 4))
    found = average_tokens([(plain, []), (again, plain)])
    assert found == {
        PLAIN: TokenCount(prompt=None, generated=4.0),
        GUARD: TokenCount(prompt=None, generated=None),
    }
