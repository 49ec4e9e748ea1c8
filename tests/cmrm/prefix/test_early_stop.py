"""A prefill runs the last block up to its keys and values, and these are those of the whole model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from cmrm.decoding.api import answer
from cmrm.decoding.requests import DecodeRequest
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.cache import PromptBatch, open_cache, prefill
from cmrm.prefix.early_stop import keeping_keys_alone
from cmrm.prefix.planner import Prefixes, lay_out
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from tests.counted_tokens import counted

LAST = 3
QUESTIONS = ("what is it?", "is it red, or blue, or neither of them?", "why")


def ask(seeds: Sequence[int | None]) -> list[Prompt]:
    return [
        Prompt(text=f"in one short sentence, and without any further word, tell me: {text}", image=image)
        for text, image in zip(
            QUESTIONS,
            [None if seed is None else noise_image(size=32, seed=seed) for seed in seeds],
            strict=True,
        )
    ]


BATCHES = {"texts": ask([None] * 3), "one image": ask([1] * 3), "own images": ask([1, 2, 3])}


def read_plainly(vlm: VisionLanguageModel, prompt: Prompt) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of each block of one prompt without its last token, by a pass of transformers alone."""
    cache, inputs = DynamicCache(), render(vlm, [prompt])
    with torch.inference_mode():
        vlm.model(**inputs, past_key_values=cache, use_cache=True)
    return [(layer.keys[0, :, :-1], layer.values[0, :, :-1]) for layer in cache.layers]


@pytest.mark.parametrize("open_prefixes", [lambda _: None, Prefixes], ids=["apart", "with prefixes"])
@pytest.mark.parametrize("name", BATCHES)
def test_keys_and_values_are_those_of_the_whole_model(
    vlm: VisionLanguageModel, name: str, open_prefixes: Callable[[VisionLanguageModel], Prefixes | None]
) -> None:
    prompts = BATCHES[name]
    with torch.inference_mode(), counted(vlm, LAST) as tokens:
        found = prefill(vlm, lay_out(vlm, prompts, open_prefixes(vlm)))
    assert tokens == []
    for row, prompt in enumerate(prompts):
        seen = found.visible[row]
        for own, plain in zip(found.layers, read_plainly(vlm, prompt), strict=True):
            for one, other in zip(own, plain, strict=True):
                torch.testing.assert_close(one[row][:, seen], other, atol=1e-5, rtol=1e-4)


def test_answers_run_the_last_block_at_tokens_that_are_decoded_alone(vlm: VisionLanguageModel) -> None:
    prompts = BATCHES["own images"]
    with counted(vlm, LAST) as last, counted(vlm, LAST - 1) as below:
        request = DecodeRequest(prompts=prompts, arms=[None])
        answered = list(answer(vlm, [request], max_new_tokens=4, rows=3))
    made = max(one.answers[0].tokens for one in answered)
    assert sum(last) <= 3 * made
    assert sum(below) > sum(last) + int(render(vlm, prompts)["attention_mask"].sum()) - 3


def test_a_hook_of_a_caller_sees_the_last_block_to_its_end(vlm: VisionLanguageModel) -> None:
    seen: list[int] = []
    handle = vlm.blocks[LAST].register_forward_hook(lambda _m, _a, output: seen.append(output.shape[1]))
    try:
        with torch.inference_mode(), counted(vlm, LAST) as tokens:
            prefill(vlm, PromptBatch(inputs=render(vlm, BATCHES["own images"])))
    finally:
        handle.remove()
    assert sum(tokens) == 3 * seen[0]


def test_block_and_cache_are_as_before_after_an_error(vlm: VisionLanguageModel) -> None:
    batch = PromptBatch(inputs=render(vlm, BATCHES["texts"]))
    cache, own = open_cache(batch), dict(vars(vlm.blocks[LAST]))

    def fail() -> None:
        with keeping_keys_alone(vlm, cache, images=0):
            assert vars(vlm.blocks[LAST]) != own
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert vars(vlm.blocks[LAST]) == own
    assert "update" not in vars(cache)
