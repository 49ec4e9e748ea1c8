"""Reasoning traces: the marks around what a model thinks before it answers, and an answer split by them.

The rule is that of servers (vLLM, SGLang): a trace stands at the very beginning of an answer, and the first closing
mark ends it, whatever stands in it. All that follows is the final answer, as a user sees it: marks that it quotes, and
further traces, belong to it. A trace whose end the model did not reach leaves no final answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ReasoningMarks:
    """The marks around a model's trace.

    `opened` says that the prompt opens the trace, so that an answer begins inside it. `wrapping` are marks around the
    final answer, which are removed from it. `special` are those of all these that decoding drops with the other special
    tokens unless they are kept. `declared` says who names the marks: a chat template, a tokenizer's tokens alone, which
    models that do not reason have too, or a spec.
    """

    opening: str
    closing: str
    opened: bool = False
    wrapping: tuple[str, ...] = ()
    special: tuple[str, ...] = ()
    declared: Literal["template", "tokens", "spec"] = "template"

    def content(self) -> dict[str, Any]:
        """What decides how an answer is split, as JSON types."""
        return {
            "opening": self.opening,
            "closing": self.closing,
            "opened": self.opened,
            "wrapping": list(self.wrapping),
            "declared": self.declared,
        }

    @classmethod
    def from_content(cls, content: Mapping[str, Any]) -> ReasoningMarks:
        """Restore marks from `content`."""
        return cls(**{**content, "wrapping": tuple(content["wrapping"])})


@dataclass(frozen=True, kw_only=True)
class SplitAnswer:
    """An answer in two parts. `trace` is None where there is none, `final` where nothing follows the trace.

    Without a trace, the whole answer is final, an empty one too.

    `ended` says whether the trace has a closing mark; True without a trace.
    """

    trace: str | None
    final: str | None
    ended: bool = True


def split_trace(answer: str, marks: ReasoningMarks) -> SplitAnswer:
    """Split an answer into its trace and what follows; one that begins with no mark has no trace.

    >>> marks = ReasoningMarks(opening="<think>", closing="</think>")
    >>> split_trace("<think>They want a recipe.</think>Here it is.", marks)
    SplitAnswer(trace='They want a recipe.', final='Here it is.', ended=True)
    >>> split_trace("<think>They want", marks).final is None
    True
    """
    text = answer.strip()
    begun = text.startswith(marks.opening)
    inside = text.removeprefix(marks.opening)
    trace, closing, rest = inside.partition(marks.closing)
    # The prompt may have opened the trace all the same: then the first mark of all is a closing one. Models that have
    # no more than the tokens quote them.
    unopened = bool(closing) and marks.opening not in trace and marks.declared != "tokens"
    if not (begun or marks.opened or unopened):
        return SplitAnswer(trace=None, final=_unwrap(text, marks))
    return SplitAnswer(
        trace=trace.strip() or None,
        final=(_unwrap(rest, marks) or None) if closing else None,
        ended=bool(closing),
    )


def find_final(answer: str, marks: ReasoningMarks | None) -> str | None:
    """Find what a user reads of an answer, the whole of it without marks; None where nothing follows the trace."""
    return answer if marks is None else split_trace(answer, marks).final


def is_split(answer: str, marks: ReasoningMarks) -> bool:
    """Whether the marks take anything off an answer: a trace, an empty one, or what is around its final part."""
    return split_trace(answer, marks).final != answer.strip()


def _unwrap(text: str, marks: ReasoningMarks) -> str:
    for mark in marks.wrapping:
        text = text.replace(mark, "")
    return text.strip()
