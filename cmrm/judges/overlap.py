"""The overlap judge: token F1 between an answer and the reference answer, as in SQuAD."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cmrm.judges.judge import Answer, Field, Judge, Verdict
from cmrm.judges.match import normalise
from cmrm.judges.references import read_references


@dataclass(frozen=True, kw_only=True)
class OverlapJudge(Judge):
    """Scores 0 to 100: the F1 of an answer's words and the reference's, as SQuAD has it (Rajpurkar et al. 2016).

    For references of any length, without a judge model. It rewards wording and not meaning, so it shows whether
    answers changed rather than whether they are good. Harmful questions, and questions without a
    reference or with a list of several, are not applicable. Words are normalised as by the match judge.
    """

    kind: ClassVar[str] = "overlap"
    reads: ClassVar[frozenset[Field]] = frozenset(("answer", "harmful", "reference"))
    version: ClassVar[int] = 3

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        return [_judge_one(answer) for answer in answers]

    def spec(self) -> Mapping[str, Any]:
        return {"judge": self.kind, "version": self.version}


def _judge_one(answer: Answer) -> Verdict:
    expected = Counter(normalise(answer.reference or ""))
    if answer.harmful or read_references(answer.reference) or not expected:
        return Verdict(verdict="not_applicable")
    given = Counter(normalise(answer.answer))
    shared = (expected & given).total()
    score = 200 * shared / (expected.total() + given.total())
    return Verdict(verdict="scored", score=score, raw=f"{shared} shared words")
