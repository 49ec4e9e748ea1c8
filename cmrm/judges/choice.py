"""The choice judge: whether an answer to a multiple-choice question names the right letter."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cmrm.judges.judge import Answer, Field, Judge, Verdict
from cmrm.judges.match import normalise

# The lines in which the question offers its choices.
OFFER = re.compile(r"^\((?P<letter>[A-Z])\) (?P<text>.+)$", re.MULTILINE)
REFERENCE = re.compile(r"\(?(?P<letter>[A-Z])\)?\.?")
# A letter alone or at the head of its choice, "(B) red"; a bare one needs a sign, since "A dog" opens with a word.
HEAD = re.compile(r"\W*(?:\((?P<round>[A-Z])\)|(?P<signed>[A-Z])(?=[.):,*\n]|\W*$))")
# A letter that is said to be the answer: "the correct option is (B)", "Answer: **B**".
SAID = re.compile(
    r"\b(?:answer|choice|option)\b(?:\s+is|\s*:|\s+would\s+be)?[\s:*\"'(]*(?P<letter>[A-Z])\b(?!['’])",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class ChoiceJudge(Judge):
    """Correct where the answer names the reference's letter, by itself or by the text of that choice, and no other.

    It reads ScienceQA's questions, and all that offer their choices in lines "(A) …". Harmful questions and
    references that are no single letter are not applicable. An answer that names no choice, or several, is
    incorrect: a model that refuses to answer is no better for it.
    """

    kind: ClassVar[str] = "choice"
    reads: ClassVar[frozenset[Field]] = frozenset(("question", "answer", "harmful", "reference"))
    version: ClassVar[int] = 1

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [_judge_one(answer) for answer in answers]

    def spec(self) -> Mapping[str, Any]:
        patterns = [pattern.pattern for pattern in (OFFER, REFERENCE, HEAD, SAID)]
        return {"judge": self.kind, "version": self.version, "patterns": patterns}


def find_choice(text: str, offers: Mapping[str, str]) -> str | None:
    """Find the one letter that a text names; `offers` are the choices by their letters, empty where not known.

    What the text says to be the answer counts before what it opens with, and both before a choice's own words.
    """
    said = {found["letter"].upper() for found in SAID.finditer(text) if _is_letter(found["letter"], offers)}
    if said:
        return said.pop() if len(said) == 1 else None
    head = HEAD.match(text)
    if head is not None and _is_letter(letter := head["round"] or head["signed"], offers):
        return letter
    words = normalise(text)
    named = [letter for letter, choice in offers.items() if words and words == normalise(choice)]
    return named[0] if len(named) == 1 else None


def _is_letter(letter: str, offers: Mapping[str, str]) -> bool:
    """Whether a letter is a choice; in small ones it is a word, "the answer is a dog"."""
    return letter.isupper() and (not offers or letter in offers)


def _judge_one(answer: Answer) -> Verdict:
    reference = REFERENCE.fullmatch((answer.reference or "").strip())
    if answer.harmful or reference is None:
        return Verdict(verdict="not_applicable")
    offers = {found["letter"]: found["text"] for found in OFFER.finditer(answer.question)}
    choice = find_choice(answer.answer, offers)
    correct = choice == reference["letter"]
    return Verdict(
        verdict="correct" if correct else "incorrect", score=float(correct), raw=choice or "no single choice"
    )
