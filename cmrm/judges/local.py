"""Base class of judges that run a local model: pinned revision, lazy loading, batched generation, cache key."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from cmrm.errors import UserError
from cmrm.judges.controls import UnjudgeableError
from cmrm.judges.judge import Answer, Judge, Usage, Verdict
from cmrm.models.pinning import COMMIT, make_fingerprint
from cmrm.models.revision import find_revision

if TYPE_CHECKING:
    from cmrm.judges.asking import Reply, Request
    from cmrm.judges.checkpoint import Checkpoint

DTYPES = ("auto", "float32", "bfloat16", "float16")
PINNED = "sha256:"


@dataclass(frozen=True, kw_only=True)
class ModelJudge(Judge):
    """A judge with a local model: `model` is a hub id or a folder, pinned by `resolve` to its current revision.

    The model is loaded with the first answer that needs it, and freed with the judge. `device` and `batch_size` change
    no verdict, but for rounding in half precision. A subclass writes prompts and parses replies.
    """

    place: ClassVar[Literal["processor", "devices"]] = "devices"
    version: ClassVar[int] = 1
    # Control strings of the prompt format, escaped in judged text.
    marks: ClassVar[tuple[str, ...]] = ()
    reply_tokens: ClassVar[int] = 1
    # Words whose token probabilities make the score, in any spelling.
    words: ClassVar[tuple[str, ...]] = ()

    model: str
    revision: str = "main"
    dtype: str = "auto"
    device: str = "auto"
    batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("model", "revision", "dtype", "device"):
            value = getattr(self, option)
            if not isinstance(value, str) or not value:
                raise UserError(f"judge {self.name!r}: {option} is {value!r}; give a text.")
        if self.dtype not in DTYPES:
            raise UserError(f"judge {self.name!r}: dtype is {self.dtype!r}; give {', '.join(DTYPES)}.")
        check_count(self.name, "batch_size", self.batch_size)

    def resolve(self) -> Self:
        """Return the judge with its model pinned; raise `UserError` if there is no such model.

        The revision becomes a hub commit or the folder's digest, a folder's name an absolute path.
        """
        with named(self.name):
            model, revision = pin(self.model, self.revision)
        return replace(self, model=model, revision=revision)

    def spec(self) -> Mapping[str, Any]:
        """Return all that determines the verdicts; the judge must be resolved."""
        return {
            "judge": self.kind,
            "version": self.version,
            "model": fingerprint(self.name, self.model, self.revision),
            "dtype": self.dtype,
            "reply_tokens": self.reply_limit,
            "prompt": digest([*self.prompts(), *self.marks]),
        }

    @property
    def reply_limit(self) -> int:
        """Maximum number of tokens in a reply."""
        return self.reply_tokens

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The loaded model."""
        with named(self.name):
            return self._load()

    def _load(self) -> Checkpoint:
        # Lazy import: naming and keying a judge must not wait for torch and transformers.
        from cmrm.judges.checkpoint import load_checkpoint

        return load_checkpoint(
            self.model, self.revision, dtype=self.dtype, device=self.device, marks=self.marks
        )

    def judge(self, answers: Sequence[Answer]) -> list[Verdict]:
        verdicts = [self.settle(answer) for answer in answers]
        written: dict[int, list[Request]] = {}
        for index, answer in enumerate(answers):
            if verdicts[index] is None:
                try:
                    written[index] = self.write(answer)
                except UnjudgeableError as error:
                    verdicts[index] = Verdict(verdict="parse_error", raw=str(error))
        replies = iter(self._ask([one for requests in written.values() for one in requests]))
        for index, requests in written.items():
            verdicts[index] = self._find(answers[index], [next(replies) for _ in requests])
        return [verdict for verdict in verdicts if verdict is not None]

    def _ask(self, requests: Sequence[Request]) -> list[Reply]:
        if not requests:
            return []
        from cmrm.judges.asking import ask

        return ask(
            self.checkpoint,
            requests,
            max_new_tokens=self.reply_limit,
            batch_size=self.batch_size,
            watched=self.watched,
        )

    def _find(self, answer: Answer, replies: Sequence[Reply]) -> Verdict:
        faults = [reply.fault for reply in replies if reply.fault is not None]
        found = Verdict(verdict="parse_error", raw=faults[0]) if faults else self.read(answer, replies)
        return replace(
            found,
            usage=Usage(
                prompt_tokens=sum(reply.usage.prompt_tokens for reply in replies),
                completion_tokens=sum(reply.usage.completion_tokens for reply in replies),
            ),
        )

    @cached_property
    def watched(self) -> Mapping[str, Collection[int]]:
        """Named sets of token ids whose probabilities the score needs."""
        from cmrm.judges.asking import find_tokens

        return {word: find_tokens(self.checkpoint.tokenizer, word) for word in self.words}

    def settle(self, answer: Answer) -> Verdict | None:  # noqa: ARG002 - used by subclasses that override it
        """Return the verdict on an answer that needs no model call, else None."""
        return None

    @abstractmethod
    def prompts(self) -> list[str]:
        """Return the prompt texts and whatever else of the kind decides a verdict, for the cache key."""

    @abstractmethod
    def write(self, answer: Answer) -> list[Request]:
        """Render the prompts for one answer; raises `UnjudgeableError`."""

    @abstractmethod
    def read(self, answer: Answer, replies: Sequence[Reply]) -> Verdict:
        """Parse the replies to those prompts; token usage is added by the caller."""


def check_count(name: str, option: str, value: object) -> None:
    """Raise `UserError` unless an option is a whole number from 1 on."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"judge {name!r}: {option} is {value!r}; give a whole number from 1 on.")


def check_share(name: str, option: str, value: object) -> None:
    """Raise `UserError` unless an option is a number from 0 to 1."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise UserError(f"judge {name!r}: {option} is {value!r}; give a number from 0 to 1.")


def pin(model: str, revision: str) -> tuple[str, str]:
    """Pin a model: return its name and current revision, a commit, or a digest with the folder's absolute path."""
    if revision.startswith(PINNED):
        return model, revision
    found = find_revision(model, revision=revision)
    return (str(Path(model).expanduser().resolve()) if found.startswith(PINNED) else model), found


def fingerprint(name: str, model: str, revision: str) -> str:
    """Return the fingerprint of a pinned model for cache keys; raise `ValueError` if it is not pinned."""
    if not (revision.startswith(PINNED) or COMMIT.fullmatch(revision)):
        raise ValueError(f"judge {name!r} must be resolved first: {revision!r} can become another model")
    return make_fingerprint(model, revision)


def digest(texts: Sequence[str]) -> str:
    """Return the sha256 of texts, in order."""
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()


@contextmanager
def named(name: str) -> Iterator[None]:
    """Prefix a `UserError` with the judge's name."""
    try:
        yield
    except UserError as error:
        raise type(error)(f"judge {name!r}: {error}") from error
