"""Answers against the naive reference: the same words, and each word among the best by the reference's own logits.

In half precision rounding changes a word now and then between any two batch sizes, and all words after it. So each
answer is given to plain transformers as a whole, under the naive hook, and each of its words must be the best there but
for rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

from torch import Tensor

from cmrm.decoding.api import generate_arms
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.requests import Answers
from cmrm.models.vlm import VisionLanguageModel
from cmrm.steering.intervention import Intervention
from on_a_gpu import naive
from on_a_gpu.subject import Subject

BATCHED = "transformers, in one batch"
# Two logits are compared, and either side may be off by the distance that is allowed of states.
TIMES = 4


@dataclass(frozen=True, kw_only=True)
class Compared:
    """How many answers are those of the reference, and how far a word's logit is below the best at most.

    `gap` is in standard deviations of a step's logits.
    """

    same: int
    gap: float


def compare_answers(
    subject: Subject, vectors: Mapping[int, Tensor], intervention: Intervention
) -> dict[str, Compared]:
    """Compare plain and steered answers of each kind; `vectors` are what the naive hook subtracts."""
    vlm, prompts, tokens = subject.vlm, subject.pictured, subject.sizes.new_tokens
    with noting_tokens(vlm) as noted:
        plain = naive.answer(vlm, prompts, new_tokens=tokens)
        moved = naive.answer(vlm, prompts, new_tokens=tokens, subtract=vectors)
        batched = naive.answer(vlm, prompts, new_tokens=tokens, size=len(prompts))
        arms = generate_arms(vlm, prompts, max_new_tokens=tokens, arms=[None, intervention])
        apart = generate_apart(vlm, prompts, max_new_tokens=tokens, intervention=intervention)

    def compare(found: Sequence[str], wanted: Sequence[str], subtract: Mapping[int, Tensor]) -> Compared:
        gaps = [
            naive.measure_gap(vlm, prompt, noted[text], subtract=subtract)
            for prompt, text in zip(prompts, found, strict=True)
        ]
        return Compared(same=naive.count_equal(found, wanted), gap=max(gaps))

    return {
        BATCHED: compare(batched, plain, {}),
        "cmrm, plain": compare(_list_texts(arms[0]), plain, {}),
        "cmrm, steered, both arms in one pass": compare(_list_texts(arms[1]), moved, vectors),
        "cmrm, steered, by transformers' generate": compare(_list_texts(apart), moved, vectors),
    }


@contextmanager
def noting_tokens(vlm: VisionLanguageModel) -> Iterator[dict[str, list[int]]]:
    """Note the tokens of each answer as the tokenizer decodes them, by its text without spaces around it."""
    tokenizer, noted = vlm.processor.tokenizer, {}
    decode = tokenizer.decode

    def note(tokens: Any, *given: Any, **more: Any) -> str:
        text = str(decode(tokens, *given, **more))
        noted[text.strip()] = [int(token) for token in tokens]
        return text

    with mock.patch.object(tokenizer, "decode", note):
        yield noted


def _list_texts(answers: Answers) -> list[str]:
    return [one.text for one in answers.answers]
