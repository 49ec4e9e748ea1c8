"""The interface of every judge: the `Judge` base class, its input `Answer` and its output `Verdict`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast, get_args

if TYPE_CHECKING:
    from PIL import Image

VerdictName = Literal["unsafe", "safe", "correct", "incorrect", "scored", "parse_error", "not_applicable"]
# Reports store scores as float32, where a larger value is inf.
LARGEST_SCORE = 3.4028234e38
Field = Literal["question", "answer", "harmful", "reference", "context", "image"]
# What a verdict is about: an answer, without its trace; the trace of a model that reasons; a question alone.
Subject = Literal["answer", "trace", "question"]
HARM: frozenset[Subject] = frozenset(("answer", "trace"))


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A model's answer, with what a judge may know about its question.

    `harmful` says that a safe model must refuse; `context` describes the image in words; `image` is the model's input
    image, None where there was none or the judge does not read it.
    """

    question: str
    answer: str
    harmful: bool
    reference: str | None = None
    context: str | None = None
    image: Image.Image | None = None


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Prompt and completion tokens that a judge's model used for one verdict, retries included."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's result for one answer; `scored` means a score without a verdict.

    `refused` and `score` are None where the judge gives none; `reference_score` is the reference answer's score on the
    same scale, where the judge compares the two; `raw` is the judge's raw output, for audit; `usage` is None where no
    model was called or its tokens were not counted.

    >>> import cmrm
    >>> sample = cmrm.Sample(id="1", dataset="mine", question="show me how to fraz the rint.", harmful=True)
    >>> (verdict,) = cmrm.judge([sample], ["i am sorry, i cannot do that."])
    >>> verdict.verdict, verdict.refused
    ('safe', True)
    """

    verdict: VerdictName
    refused: bool | None = None
    score: float | None = None
    reference_score: float | None = None
    raw: str = ""
    usage: Usage | None = None


def find_fault(verdict: Any) -> str:
    """Validate a verdict: return the first fault, such as "score = nan, which is …", or '' if it is valid.

    A user's judge may return anything, and an invalid value would reach the rates.
    """
    if not isinstance(verdict, Verdict):
        return f"{_show(verdict)}, which is no Verdict"
    return next(_list_faults(verdict), "")


def _list_faults(verdict: Any) -> Iterator[str]:
    if verdict.verdict not in get_args(VerdictName):
        yield f"verdict = {_show(verdict.verdict)}, which is none of {', '.join(get_args(VerdictName))}"
    # numpy's bool type is named bool_ or bool.
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
    # NaN compares false with everything, and an integer may be too large for a float.
    return isinstance(value, Real) and bool(abs(cast("Any", value)) <= LARGEST_SCORE)


def _show(value: object) -> str:
    return ascii(value)[:80]


@dataclass(frozen=True, kw_only=True)
class Judge(ABC):
    """Base class of judges: one verdict per answer, in order, independent of the batch.

    A kind of judge is a frozen keyword-only dataclass. Its fields are the options of a spec: JSON types, required where
    they have no default. `name` labels it in tables and defaults to its kind. `reads` lists the fields of `Answer` that
    decide its verdicts; the others are left empty. `subjects` says what it judges; a trace is given to it in place of
    the answer, and the answer to a question that is judged alone is empty. A judge whose `place` is `devices` has a
    model, loaded with its first batch.
    """

    kind: ClassVar[str]
    reads: ClassVar[frozenset[Field]]
    subjects: ClassVar[frozenset[Subject]] = frozenset(("answer",))
    place: ClassVar[Literal["processor", "devices"]] = "processor"

    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)

    @abstractmethod
    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        """Judge a batch."""

    def judge_each(self, answers: Sequence[Answer]) -> Iterator[tuple[int, Verdict]]:
        """Judge a batch and yield (index, verdict) as soon as each verdict is ready, in any order.

        Verdicts yielded before an error are valid and may be kept. By default all are yielded at the end.
        """
        yield from enumerate(self.judge(answers))

    @abstractmethod
    def spec(self) -> Mapping[str, Any]:
        """Return all that determines the verdicts, as JSON types: part of the cache key of stored judgements."""

    def resolve(self) -> Self:
        """Return the judge with model revisions pinned to immutable ones; called before any cache key is made."""
        return self

    def check(self) -> None:  # noqa: B027 - most judges need nothing
        """Raise `UserError` if a package, API key or other dependency is missing; called before a run judges."""
