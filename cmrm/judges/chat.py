"""The chat judge: any local chat model grades answers by a rubric."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from cmrm.judges.judge import Answer, Field, Verdict
from cmrm.judges.local import ModelJudge, check_count, named
from cmrm.judges.rubric import Rubric, get_rubric

if TYPE_CHECKING:
    from cmrm.judges.asking import Reply, Request


@dataclass(frozen=True, kw_only=True)
class ChatJudge(ModelJudge):
    """Prompts a chat model in its own chat template and parses its reply by the rubric.

    A reply that does not end within `max_new_tokens` is a parse error: raise it for a reasoning model. Reasoning is
    turned off (`enable_thinking`) in chat templates that support that.
    """

    kind: ClassVar[str] = "chat"
    # An instance narrows these to what its rubric reads.
    reads: ClassVar[frozenset[Field]] = frozenset(("question", "answer", "harmful", "reference", "context"))

    rubric: str
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self.name, "max_new_tokens", self.max_new_tokens)
        object.__setattr__(self, "reads", self.asked.reads)
        object.__setattr__(self, "subjects", self.asked.subjects)

    @cached_property
    def asked(self) -> Rubric:
        """The rubric."""
        with named(self.name):
            return get_rubric(self.rubric)

    @property
    def reply_limit(self) -> int:
        return self.max_new_tokens

    def spec(self) -> Mapping[str, Any]:
        return {**super().spec(), "rubric": self.rubric}

    def prompts(self) -> list[str]:
        return [self.asked.digest()]

    def settle(self, answer: Answer) -> Verdict | None:
        return self.asked.settle(answer)

    def write(self, answer: Answer) -> list[Request]:
        from cmrm.judges.conversation import Turn, write_conversation

        turns = [Turn(role=one["role"], text=one["content"]) for one in self.asked.write(answer)]
        checkpoint = self.checkpoint
        with named(self.name):
            return [write_conversation(checkpoint, turns, enable_thinking=False)]

    def read(self, answer: Answer, replies: Sequence[Reply]) -> Verdict:
        (reply,) = replies
        return (
            Verdict(verdict="parse_error", raw=reply.text)
            if reply.cut
            else self.asked.read(reply.text, answer)
        )
