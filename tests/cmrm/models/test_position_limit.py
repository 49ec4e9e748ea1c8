"""An answer that reaches the model's position limit ends there with `length`; its tokens are unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from cmrm.decoding.api import generate
from cmrm.decoding.hf_generate import generate_apart
from cmrm.decoding.requests import Answer
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image

MOST = 12
Ask = Callable[[Sequence[Prompt]], Sequence[Answer]]


@pytest.fixture(params=[generate, generate_apart], ids=["together", "apart"])
def ask(request: pytest.FixtureRequest, vlm: VisionLanguageModel) -> Ask:
    return lambda prompts: request.param(vlm, prompts, max_new_tokens=MOST).answers


@pytest.fixture(autouse=True)
def _never_end(vlm: VisionLanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no answer end by itself."""
    monkeypatch.setattr(
        vlm.model.generation_config, "suppress_tokens", [vlm.processor.tokenizer.eos_token_id]
    )


def answer_naively(vlm: VisionLanguageModel, prompt: Prompt, tokens: int) -> str:
    """The first words by transformers' own `generate`, which knows nothing of a limit."""
    inputs = render(vlm, [prompt])
    config = GenerationConfig(
        do_sample=False,
        max_new_tokens=tokens,
        pad_token_id=vlm.processor.tokenizer.pad_token_id,
        suppress_tokens=[vlm.processor.tokenizer.eos_token_id],
    )
    with torch.inference_mode():
        made = vlm.model.generate(**inputs, generation_config=config)
    new: Any = made[0, inputs["input_ids"].shape[1] :]
    return str(vlm.processor.tokenizer.decode(new, skip_special_tokens=True)).strip()


@pytest.mark.parametrize("spare", [0, 1, 5, MOST - 1, MOST, MOST + 9])
def test_an_answer_ends_at_the_position_limit_whatever_shares_its_batch(
    vlm: VisionLanguageModel, ask: Ask, monkeypatch: pytest.MonkeyPatch, spare: int
) -> None:
    prompts = [
        Prompt(text="what is it?", image=noise_image(size=32, seed=0)),
        Prompt(text="what colour is the square, and what is beside it?", image=noise_image(size=32, seed=1)),
    ]
    lengths = [int(render(vlm, [prompt])["attention_mask"].sum()) for prompt in prompts]
    monkeypatch.setattr(vlm.model.config.get_text_config(), "max_position_embeddings", max(lengths) + spare)
    answers = ask(prompts)
    for prompt, length, answer in zip(prompts, lengths, answers, strict=True):
        # The first word needs no position of its own.
        expected = max(1, min(MOST, max(lengths) + spare - length))
        assert (answer.tokens, answer.finish_reason) == (expected, "length")
        assert answer.text == answer_naively(vlm, prompt, expected)
