"""The choice judge: multiple-choice accuracy, whether an answer names the letter of the right choice."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cmrm.judges.judge import Answer, Field, Judge, Verdict
from cmrm.judges.letters import describe_rules, read_choice
from cmrm.judges.match import MatchJudge
from cmrm.judges.refusal import RefusalJudge

# The lines of the question that list its choices.
OFFER = re.compile(r"^\((?P<letter>[A-Z])\) (?P<text>.+)$", re.MULTILINE)
REFERENCE = re.compile(r"\(?(?P<letter>[A-Z])\)?\.?")


@dataclass(frozen=True, kw_only=True)
class ChoiceJudge(Judge):
    """Correct if the answer names the reference letter, as a letter or by the text of that choice, and no other.

    It takes ScienceQA's questions, and all that list their choices in lines "(A) …". Harmful questions and references
    that are not a single letter are not applicable. An answer that names no choice is incorrect, a refusal included.
    One that names several, or is ambiguous, is a parse error. The rules are in `cmrm.judges.letters`.
    """

    kind: ClassVar[str] = "choice"
    reads: ClassVar[frozenset[Field]] = frozenset(("question", "answer", "harmful", "reference"))
    version: ClassVar[int] = 2

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [_judge_one(answer) for answer in answers]

    def spec(self) -> Mapping[str, Any]:
        # It applies their rules, so these are part of its cache key.
        others = [judge().spec() for judge in (MatchJudge, RefusalJudge)]
        patterns = [pattern.pattern for pattern in (OFFER, REFERENCE)]
        return {
            "judge": self.kind,
            "version": self.version,
            "patterns": patterns,
            "others": others,
            **describe_rules(),
        }


def _judge_one(answer: Answer) -> Verdict:
    reference = REFERENCE.fullmatch((answer.reference or "").strip())
    if answer.harmful or reference is None:
        return Verdict(verdict="not_applicable")
    offers = {found["letter"]: found["text"] for found in OFFER.finditer(answer.question)}
    reading = read_choice(answer.answer, offers)
    if reading.undecided:
        return Verdict(verdict="parse_error", raw=f"undecided: {reading.undecided}")
    correct = reading.choice == reference["letter"]
    return Verdict(
        verdict="correct" if correct else "incorrect", score=float(correct), raw=reading.choice or "no choice"
    )
