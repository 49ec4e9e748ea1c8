"""Answer a batch one way through transformers' own `generate`: for models whose ways cannot be answered together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from cmrm.answers import Answer, Answers
from cmrm.conditions import Prompt
from cmrm.decoding_rules import list_ends, make_generation_config
from cmrm.faults import Fault, LogitsWatch, trace_blocks
from cmrm.model import VisionLanguageModel, render
from cmrm.position_limit import count_room
from cmrm.steering import Intervention, SteeringProof, steer


@torch.inference_mode()
def generate_apart(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    intervention: Intervention | None = None,
) -> Answers:
    """Answer a batch of prompts by greedy decoding, at most `max_new_tokens` each, under the intervention if given."""
    inputs = render(vlm, prompts)
    watch = LogitsWatch()
    room = count_room(vlm, inputs, most=max_new_tokens)
    with _steering(vlm, inputs, intervention) as proof:
        sequences = vlm.model.generate(
            **inputs,
            generation_config=make_generation_config(vlm, max_new_tokens),
            logits_processor=LogitsProcessorList([watch]),
            stopping_criteria=StoppingCriteriaList([_PositionsEnd(inputs["input_ids"].shape[1], room)]),
        )
    answers = _read_answers(vlm, sequences[:, inputs["input_ids"].shape[1] :], room)
    # What a row's padding comes to once its answer has ended is no part of it.
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
    intervention: Intervention | None,
) -> dict[int, Fault]:
    """Where each row whose logits were not finite at a step stopped being so; asks the model again if there are any."""
    if not steps:
        return {}
    # The whole batch once more, as far as needed: with fewer rows its numbers could round otherwise, and not overflow.
    longest = max(steps.values()) + 1
    with (
        _steering(vlm, inputs, intervention),
        trace_blocks(vlm, inputs["attention_mask"]) as trace,
    ):
        vlm.model.generate(**inputs, generation_config=make_generation_config(vlm, longest))
    return {row: trace.locate(row, step) for row, step in steps.items()}


def _steering(
    vlm: VisionLanguageModel, inputs: BatchFeature, intervention: Intervention | None
) -> AbstractContextManager[SteeringProof | None]:
    if intervention is None:
        return nullcontext()
    return steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])


class _PositionsEnd(StoppingCriteria):
    """Ends each answer where its room does, whoever shares its batch."""

    def __init__(self, prompt: int, room: Sequence[int]) -> None:
        self._ends = prompt + torch.tensor(room)

    def __call__(self, input_ids: Tensor, _scores: Tensor, **_: Any) -> Tensor:
        return (input_ids.shape[1] >= self._ends).to(input_ids.device)


def _read_answers(vlm: VisionLanguageModel, new_tokens: Tensor, room: Sequence[int]) -> list[Answer]:
    tokenizer = vlm.processor.tokenizer
    ends = torch.tensor(list_ends(vlm), device=new_tokens.device)
    # What follows an answer's room is padding, which some models end their answers with.
    inside = torch.arange(new_tokens.shape[1]) < torch.tensor(room)[:, None]
    ended = torch.isin(new_tokens, ends) & inside.to(new_tokens.device)
    whole = inside.sum(1).to(new_tokens.device)
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, whole).tolist()
    texts = tokenizer.batch_decode(
        [row[:length] for row, length in zip(new_tokens.tolist(), lengths, strict=True)],
        skip_special_tokens=True,
    )
    return [
        Answer(text=text.strip(), tokens=length, finish_reason="stop" if stopped else "length")
        for text, length, stopped in zip(texts, lengths, ended.any(1).tolist(), strict=True)
    ]
