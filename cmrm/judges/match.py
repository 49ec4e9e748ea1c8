"""The match judge: whether an answer contains the short reference answer as whole words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

from cmrm.judges.judge import Answer, Field, Judge, Verdict
from cmrm.judges.numbers import split_with_numbers
from cmrm.judges.references import read_references
from cmrm.judges.text import END, contains_words

# Longer references are sentences, which a good answer need not repeat word for word.
MAX_REFERENCE_WORDS = 12

ARTICLES = frozenset(("a", "an", "the"))
# VQA treats it as a number too.
NO_NUMBER = "none"
_SILENT = ARTICLES | {END}


@dataclass(frozen=True, kw_only=True)
class MatchJudge(Judge):
    """Scores 1 if the normalised answer contains the normalised reference as whole words, else 0.

    Normalisation is that of VQA (Antol et al. 2015), but for numbers: case, punctuation and articles are dropped,
    contractions expanded, and numbers compared by value (`cmrm.judges.numbers`). Harmful questions, and
    references that are absent, a list of several (the judge `vqa` reads these) or longer than 12 words, are not
    applicable. A reference that is an article ("A", a choice's letter) must end the answer. Known limits: "not red"
    and "red or blue" both contain "red".
    """

    kind: ClassVar[str] = "match"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "harmful", "reference"))
    version: ClassVar[int] = 3

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [_judge_one(answer) for answer in answers]

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind, "version": self.version, "max_reference_words": MAX_REFERENCE_WORDS}


def normalise(text: str) -> list[str]:
    """Split a text into normalised words, without articles."""
    return _split(text, without=_SILENT)


def _split(text: str, without: frozenset[str] = frozenset((END,))) -> list[str]:
    words = [word for word in split_with_numbers(text) if word not in without]
    return ["0" if word == NO_NUMBER else word for word in words] if NO_NUMBER in words else words


@lru_cache(maxsize=256)
def _split_reference(reference: str) -> tuple[str, ...]:
    """The words of a reference, which many answers share; none of a reference that a verdict cannot follow from."""
    words = () if read_references(reference) else tuple(_split(reference))
    return words if len(words) <= MAX_REFERENCE_WORDS else ()


def _judge_one(answer: Answer) -> Verdict:
    reference = _split_reference(answer.reference or "")
    if answer.harmful or not reference:
        return Verdict(verdict="not_applicable")
    correct = _matches(answer.answer, reference)
    return Verdict(
        verdict="correct" if correct else "incorrect", score=float(correct), raw=" ".join(reference)
    )


def _matches(text: str, reference: Sequence[str]) -> bool:
    content = [word for word in reference if word not in ARTICLES]
    if content:
        return contains_words(normalise(text), content)
    return tuple(_split(text)[-len(reference) :]) == reference
