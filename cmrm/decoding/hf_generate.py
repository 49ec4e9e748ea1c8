"""Decode one arm of a batch with transformers' own `generate`, for models that cannot decode all arms in one pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BatchFeature,
    GenerationMixin,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)

from cmrm.decoding.nonfinite import Fault, LogitsWatch, trace_blocks
from cmrm.decoding.requests import Answer, Answers
from cmrm.decoding.stop_tokens import list_ends, make_generation_config
from cmrm.models.position_limit import limit_new_tokens
from cmrm.models.vlm import VisionLanguageModel, decode_answer, render
from cmrm.prompts.conditions import Prompt
from cmrm.steering.hooks import steer
from cmrm.steering.intervention import Steering
from cmrm.steering.proof import SteeringProof


def find_generate(vlm: VisionLanguageModel) -> Callable[..., Any]:
    """Find the `generate` that answers with text: transformers' own for models whose class has another.

    Janus' is for images too, and drops `logits_processor` and `stopping_criteria` on the way to that of text. Code of
    a model's own folder is left its own.
    """
    found = type(vlm.model).generate
    if found.__module__.startswith("transformers.models."):
        return partial(GenerationMixin.generate, vlm.model)
    own: Callable[..., Any] = vlm.model.generate
    return own


@torch.inference_mode()
def generate_apart(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    intervention: Steering | None = None,
) -> Answers:
    """Answer a batch of prompts by greedy decoding, at most `max_new_tokens` each, under the intervention if given."""
    inputs = render(vlm, prompts)
    watch = LogitsWatch()
    limits = limit_new_tokens(vlm, inputs, most=max_new_tokens)
    with _steering(vlm, inputs, intervention) as proof:
        sequences = find_generate(vlm)(
            **inputs,
            generation_config=make_generation_config(vlm, max_new_tokens),
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=StoppingCriteriaList([_PositionsEnd(inputs["input_ids"].shape[1], limits)]),
        )
    sizes = inputs["attention_mask"].sum(dim=1).tolist()
    answers = _read_answers(vlm, sequences[:, inputs["input_ids"].shape[1] :], limits, sizes)
    # A step after the end of a row's answer is padding, and no fault of the answer.
    steps = {
        row: step
        for row, (step, answer) in enumerate(zip(watch.first_steps(), answers, strict=True))
        if 0 <= step < answer.tokens
    }
    for row, fault in _find_faults(vlm, inputs, steps, intervention).items():
        answers[row] = replace(answers[row], text="", fault=fault)
    return Answers(answers=tuple(answers), proof=proof)


def _find_faults(
    vlm: VisionLanguageModel,
    inputs: BatchFeature,
    steps: Mapping[int, int],
    intervention: Steering | None,
) -> dict[int, Fault]:
    """Find the block where NaN or inf began in each row with such logits, by generating again if there is any."""
    if not steps:
        return {}
    # The same batch again, up to the last such step: with fewer rows its numbers may round differently.
    longest = max(steps.values()) + 1
    with (
        _steering(vlm, inputs, intervention),
        trace_blocks(vlm, inputs["attention_mask"]) as trace,
    ):
        find_generate(vlm)(**inputs, generation_config=make_generation_config(vlm, longest))
    return {row: trace.locate(row, step) for row, step in steps.items()}


def _steering(
    vlm: VisionLanguageModel, inputs: BatchFeature, intervention: Steering | None
) -> AbstractContextManager[SteeringProof | None]:
    if intervention is None:
        return nullcontext()
    return steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


class _PositionsEnd(StoppingCriteria):
    """Ends each answer at its own token limit, whatever the rest of its batch does."""

    def __init__(self, prompt: int, limits: Sequence[int]) -> None:
        self._ends = prompt + torch.tensor(limits)

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: Any) -> Tensor:
        return (input_ids.shape[1] >= self._ends).to(input_ids.device)


def _read_answers(
    vlm: VisionLanguageModel, new_tokens: Tensor, limits: Sequence[int], sizes: Sequence[int]
) -> list[Answer]:
    ends = torch.tensor(list_ends(vlm), device=new_tokens.device)
    # What follows an answer's limit is padding, which is the end token of some models.
    inside = torch.arange(new_tokens.shape[1]) < torch.tensor(limits)[:, None]
    ended = torch.isin(new_tokens, ends) & inside.to(new_tokens.device)
    longest = inside.sum(1).to(new_tokens.device)
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, longest).tolist()
    texts = [
        decode_answer(vlm, row[:length]) for row, length in zip(new_tokens.tolist(), lengths, strict=True)
    ]
    return [
        Answer(
            text=text.strip(),
            tokens=length,
            finish_reason="stop" if stopped else "length",
            prompt_tokens=size,
        )
        for text, length, stopped, size in zip(texts, lengths, ended.any(1).tolist(), sizes, strict=True)
    ]
