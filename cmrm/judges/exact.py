"""The exact judge: exact match of a normalised answer with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cmrm.judges.judge import Answer, Field, Judge, Verdict
from cmrm.judges.match import normalise
from cmrm.judges.references import read_references
from cmrm.judges.text import END, split_words


@dataclass(frozen=True, kw_only=True)
class ExactJudge(Judge):
    """Scores 1 if the normalised answer equals the normalised reference, else 0.

    VQA (Antol et al. 2015) compares with ten annotators' answers and gives a third of a point for each that agrees, as
    the judge `vqa` does; with one reference, as here, it is all or nothing. It suits one-word answers; the match judge
    finds the reference in a sentence. Words are normalised as by the match judge. Harmful questions, and
    questions without a reference or with a list of several, are not applicable.
    """

    kind: ClassVar[str] = "exact"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "harmful", "reference"))
    version: ClassVar[int] = 3

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [_judge_one(answer) for answer in answers]

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind, "version": self.version}


def _judge_one(answer: Answer) -> Verdict:
    expected = _normalise(answer.reference or "")
    if answer.harmful or read_references(answer.reference) or not expected:
        return Verdict(verdict="not_applicable")
    correct = _normalise(answer.answer) == expected
    return Verdict(
        verdict="correct" if correct else "incorrect", score=float(correct), raw=" ".join(expected)
    )


def _normalise(text: str) -> list[str]:
    """Normalise words; articles are dropped unless nothing else is left ("A", the letter of a choice)."""
    return normalise(text) or [word for word in split_words(text) if word != END]
