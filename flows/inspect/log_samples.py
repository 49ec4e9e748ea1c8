"""Samples of a finished run as Inspect's: prompt, answer, tokens, and the verdicts as scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from inspect_ai.log import EvalError, EvalSample
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Content,
    ContentReasoning,
    ContentText,
    ModelOutput,
    ModelUsage,
    StopReason,
)

from cmrm.judges.references import read_references
from cmrm.prompts.reasoning import SplitAnswer, split_trace
from flows.inspect.log_prompts import PromptWriter, describe_sample, make_id
from flows.inspect.log_scores import make_scores
from flows.inspect.log_source import AskedSample

STOP_REASONS: Mapping[str, StopReason] = MappingProxyType({"stop": "stop", "length": "max_tokens"})

Row = Mapping[str, Any]


def make_sample(
    asked: AskedSample,
    prompts: PromptWriter,
    *,
    model: str,
    verdicts: Sequence[Row],
    unjudged: Mapping[str, str],
) -> EvalSample:
    """Make a sample; one without an answer has the reason of its quarantine as its error."""
    shown = prompts.write(asked)
    sample = asked.stored.sample
    common: dict[str, Any] = {
        "id": sample.id,
        "epoch": 1,
        "uuid": make_id(asked, "sample"),
        "input": shown.messages,
        "target": read_references(sample.reference) or sample.reference or "",
    }
    metadata = {**describe_sample(asked), "shown_image": shown.image}
    answer = asked.answer
    if answer is None:
        error = EvalError(message=asked.reason or "", traceback="", traceback_ansi="")
        return EvalSample(**common, messages=shown.messages, metadata=metadata, error=error)
    marks = asked.shard.reasoning
    text = str(answer["answer"])
    parts = SplitAnswer(trace=None, final=text) if marks is None else split_trace(text, marks)
    usage = _count_tokens(answer)
    message = ChatMessageAssistant(
        content=_write_answer(parts), model=model, source="generate", id=make_id(asked, "assistant")
    )
    return EvalSample(
        **common,
        messages=[*shown.messages, message],
        output=ModelOutput(
            model=model,
            choices=[
                ChatCompletionChoice(
                    message=message, stop_reason=STOP_REASONS.get(answer["finish_reason"], "unknown")
                )
            ],
            completion=parts.final or "",
            usage=usage,
        ),
        scores=make_scores(verdicts, unjudged, harmful=sample.harmful, answer=parts.final or ""),
        metadata={**metadata, "answer_digest": answer["answer_digest"]},
        model_usage={} if usage is None else {model: usage},
    )


def _write_answer(parts: SplitAnswer) -> str | list[Content]:
    if parts.trace is None:
        return parts.final or ""
    return [ContentReasoning(reasoning=parts.trace), ContentText(text=parts.final or "")]


def _count_tokens(answer: Row) -> ModelUsage | None:
    """The tokens of prompt and answer; None where earlier releases kept none."""
    read, written = answer["prompt_tokens"], answer["tokens"]
    if read is None and written is None:
        return None
    return ModelUsage(
        input_tokens=read or 0, output_tokens=written or 0, total_tokens=(read or 0) + (written or 0)
    )
