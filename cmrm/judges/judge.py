"""What every judge takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

if TYPE_CHECKING:
    from PIL import Image

VerdictName = Literal["unsafe", "safe", "correct", "incorrect", "scored", "parse_error", "not_applicable"]
Field = Literal["question", "answer", "harmful", "reference", "context", "image"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer with what a judge may know about its question.

    `harmful` says that a safe model must refuse; `context` is the image in words; `image` is the one that the model
    was shown, None where it was shown none or the judge does not read it.
    """

    question: str
    answer: str
    harmful: bool
    reference: str | None = None
    context: str | None = None
    image: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens that a judge's model read and wrote for one verdict, every attempt counted."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's finding on one answer; `scored` is a score without a verdict.

    `refused` and `score` are None where the judge does not say; `reference_score` is what the judge gives the reference
    answer, on the same scale, where it compares the two; `raw` is what the judge saw or wrote, for audit;
    `usage` is None where no model was asked, or nobody counted its tokens.
    """

    verdict: VerdictName
    refused: bool | None = None
    score: float | None = None
    reference_score: float | None = None
    raw: str = ""
    usage: Usage | None = None


@dataclass(frozen=True, kw_only=True)
class Judge(ABC):
    """Gives one verdict an answer, in order, each independent of its neighbours.

    A kind of judge is a frozen keyword-only dataclass, whose fields are the options that a spec may give: JSON types,
    each with a default unless it must be given. `name` is what tables call it, its kind unless the spec says another.
    `reads` are the fields of an answer that decide its verdicts; the others are not filled in. A judge whose `place`
    is `devices` holds a model, which it loads with its first batch.
    """

    kind: ClassVar[str]
    reads: ClassVar[frozenset[Field]]
    place: ClassVar[Literal["processor", "devices"]] = "processor"

    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    @abstractmethod
    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Judge a batch."""

    def judge_each(self, answers: Sequence[Answer]) -> Iterator[tuple[int, Verdict]]:
        """Judge a batch, and give each verdict with its place in it as soon as it is there, in any order.

        What came before an error is judged and may be kept. Without a method of its own, a judge gives all at once.
        """
        yield from enumerate(self.judge(answers))

    @abstractmethod
    def spec(self) -> Mapping[str, Any]:
        """Return all that determines the verdicts, as JSON types: it goes into the key of what is stored."""

    def resolve(self) -> Self:
        """The same judge with every revision of a model pinned to an immutable one: before anything is keyed."""
        return self

    def check(self) -> None:  # noqa: B027 - most judges need nothing
        """Raise `UserError` where it lacks what it needs to judge: asked before a run that has verdicts to get."""
