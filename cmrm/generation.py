"""Answer prompts, plainly or under an intervention: batched, greedy, so an answer depends on its prompt alone."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import GenerationConfig

from cmrm.conditions import Prompt
from cmrm.model import VisionLanguageModel, render
from cmrm.steering import Intervention, SteeringProof, steer

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: its text without special tokens, the number of generated tokens, and why it ended."""

    text: str
    tokens: int
    finish_reason: FinishReason


@dataclass(frozen=True, kw_only=True)
class Answers:
    """The answers of a batch in the order of its prompts; the proof of steering where there was an intervention."""

    answers: tuple[Answer, ...]
    proof: SteeringProof | None


@torch.inference_mode()
def generate(
    vlm: VisionLanguageModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    intervention: Intervention | None = None,
) -> Answers:
    """Answer a batch of prompts by greedy decoding, at most `max_new_tokens` each, under the intervention if given.

    Sampling is not offered: its random numbers would make an answer depend on who shares the batch (`DESIGN.md` §2).
    """
    inputs = render(vlm, prompts)
    context = (
        steer(vlm, intervention, input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
        if intervention is not None
        else nullcontext()
    )
    with context as proof:
        sequences = vlm.model.generate(**inputs, generation_config=_greedy(vlm, max_new_tokens))
    new_tokens = sequences[:, inputs["input_ids"].shape[1] :]
    return Answers(answers=tuple(_read_answers(vlm, new_tokens)), proof=proof)


def _greedy(vlm: VisionLanguageModel, max_new_tokens: int) -> GenerationConfig:
    own, tokenizer = vlm.model.generation_config, vlm.processor.tokenizer
    return GenerationConfig(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max_new_tokens,
        bos_token_id=own.bos_token_id,
        eos_token_id=own.eos_token_id if own.eos_token_id is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _read_answers(vlm: VisionLanguageModel, new_tokens: Tensor) -> list[Answer]:
    tokenizer = vlm.processor.tokenizer
    ends = torch.as_tensor(_greedy(vlm, 1).eos_token_id, device=new_tokens.device).reshape(-1)
    ended = torch.isin(new_tokens, ends)
    lengths = torch.where(ended.any(1), ended.int().argmax(1) + 1, new_tokens.shape[1]).tolist()
    texts = tokenizer.batch_decode(
        [row[:length] for row, length in zip(new_tokens.tolist(), lengths, strict=True)],
        skip_special_tokens=True,
    )
    return [
        Answer(text=text.strip(), tokens=length, finish_reason="stop" if stopped else "length")
        for text, length, stopped in zip(texts, lengths, ended.any(1).tolist(), strict=True)
    ]
