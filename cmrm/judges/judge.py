"""What every judge takes and gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

if TYPE_CHECKING:
    from PIL import Image

VerdictName = Literal["unsafe", "safe", "correct", "incorrect", "scored", "parse_error", "not_applicable"]
# Reports keep scores in single precision, where larger ones are infinite.
LARGEST_SCORE = 3.4028234e38
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


def find_fault(verdict: Any) -> str:
    """Find what no verdict may hold, "score = nan, which is …" for instance; '' where there is nothing.

    A user's judge may return anything, and what gets past this is counted.
    """
    if not isinstance(verdict, Verdict):
        return f"{_show(verdict)}, which is no Verdict"
    return next(_list_faults(verdict), "")


def _list_faults(verdict: Any) -> Iterator[str]:
    if verdict.verdict not in get_args(VerdictName):
        yield f"verdict = {_show(verdict.verdict)}, which is none of {', '.join(get_args(VerdictName))}"
    # numpy's is called bool_ or bool.
    if verdict.refused is not None and type(verdict.refused).__name__ not in {"bool", "bool_"}:
        yield f"refused = {_show(verdict.refused)}, which is neither true, false nor None"
    needed = "score" if verdict.verdict == "scored" else ""
    for name in ("score", "reference_score"):
        value = getattr(verdict, name)
        if (value is not None or name == needed) and not _is_finite(value):
            yield f"{name} = {_show(value)}, which is no finite number of single precision"
    if not isinstance(verdict.raw, str):
        yield f"raw = {_show(verdict.raw)}, which is no text"
    usage = verdict.usage
    counts = () if usage is None else (usage.prompt_tokens, usage.completion_tokens)
    if not all(isinstance(count, Integral) and 0 <= int(count) < 2**63 for count in counts):
        yield f"usage = {_show(usage)}, which holds no numbers of tokens"


def _is_finite(value: Any) -> bool:
    # A number that is none is not smaller than anything, and an integer may be too large for a float.
    return isinstance(value, Real) and bool(abs(cast("Any", value)) <= LARGEST_SCORE)


def _show(value: object) -> str:
    return ascii(value)[:80]


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
