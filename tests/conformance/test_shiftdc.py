"""ShiftDC gives the tokens of a cache-free loop that is written from its algorithm, in one pass with other arms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from cmrm.decoding.api import generate_arms
from cmrm.defences import Materials
from cmrm.defences.shiftdc import ShiftDC
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prompts.conditions import Prompt
from cmrm.steering.capture import embed
from cmrm.steering.direction import LabelledDirection
from tests.conformance.asking import SHOWN
from tests.conformance.loading import Load

NEW = 5
CAPTIONS = ("a red square", "two green circles and a line", "nothing")
ALPHA = 40.0


def make_direction(vlm: VisionLanguageModel) -> LabelledDirection:
    count, width = len(vlm.blocks), vlm.hidden_size
    drawn = torch.randn(3, count, width, generator=torch.Generator().manual_seed(7))
    unit = torch.nn.functional.normalize(drawn[2], dim=-1)
    return LabelledDirection(
        harmful=drawn[0], harmless=drawn[1], components=unit[:, None], blocks=tuple(range(count))
    )


@contextmanager
def editing(vlm: VisionLanguageModel, edits: dict[int, Tensor], column: int) -> Iterator[None]:
    """Subtract vectors from the outputs of blocks at one column of each pass."""

    def edit(vector: Tensor) -> Any:
        def hook(_block: Any, _args: Any, output: Any) -> Any:
            hidden = (output[0] if isinstance(output, tuple) else output).clone()
            hidden[:, column] -= vector
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return hook

    handles = [vlm.blocks[block].register_forward_hook(edit(vector)) for block, vector in edits.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def read_last(vlm: VisionLanguageModel, prompt: Prompt) -> list[Tensor]:
    """The last token's state at each block's output, read by hooks of our own."""
    states: list[Tensor] = []

    def keep(_block: Any, _args: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output)[0, -1])

    handles = [block.register_forward_hook(keep) for block in vlm.blocks]
    vlm.model(**render(vlm, [prompt]), use_cache=False)
    for handle in handles:
        handle.remove()
    return states


@torch.inference_mode()
def answer_naively(vlm: VisionLanguageModel, prompt: Prompt, caption: str, s: Tensor) -> list[int]:
    """ShiftDC from its algorithm: the whole sequence again for each token, without a cache."""
    with_image = read_last(vlm, prompt)
    with_caption = read_last(vlm, Prompt(text=f"{caption}\n{prompt.text}"))
    edits = {}
    for block in range(len(vlm.blocks) // 2, len(vlm.blocks)):
        shift, safety = with_image[block] - with_caption[block], s[block]
        edits[block] = ALPHA * (shift @ safety) / (safety @ safety) * safety
    inputs = render(vlm, [prompt])
    column = inputs["input_ids"].shape[1] - 1
    tokens: list[int] = []
    for _ in range(NEW):
        with editing(vlm, edits, column):
            logits = vlm.model(**inputs, use_cache=False).logits[0, -1]
        tokens.append(int(logits.argmax()))
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[tokens[-1]]])], dim=1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in inputs:
                inputs[name] = torch.nn.functional.pad(inputs[name], (0, 1))
    return tokens


@pytest.mark.parametrize("name", ["llava", "gemma3", "idefics3"])
def test_shiftdc_gives_the_tokens_of_the_naive_loop(
    tiny: Load, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vlm = tiny(name)
    # No answer ends before its last token, so that all are compared.
    monkeypatch.setattr(vlm.model.generation_config, "eos_token_id", [])
    direction, defence = make_direction(vlm), ShiftDC()
    pairs = [
        defence.pair(prompt, {"caption": caption}) for prompt, caption in zip(SHOWN, CAPTIONS, strict=True)
    ]
    blocks = defence.own_blocks(vlm)
    delta = embed(vlm, [one for one, _ in pairs], blocks=blocks) - embed(
        vlm, [one for _, one in pairs], blocks=blocks
    )
    own = defence.build_own(vlm, Materials(direction=direction), delta, alpha=ALPHA)
    plain, steered = generate_arms(vlm, SHOWN, max_new_tokens=NEW, arms=[None, own])
    s = direction.harmful - direction.harmless
    naive = [answer_naively(vlm, prompt, caption, s) for prompt, caption in zip(SHOWN, CAPTIONS, strict=True)]
    texts = [vlm.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip() for tokens in naive]
    assert [one.text for one in steered.answers] == texts
    assert [one.text for one in plain.answers] != texts


def test_the_part_along_safety_is_all_that_is_subtracted(tiny: Load) -> None:
    vlm = tiny("llava")
    direction, defence = make_direction(vlm), ShiftDC(blocks=[1, 2])
    s = (direction.harmful - direction.harmless)[1:3].numpy()
    delta = torch.randn(4, 2, vlm.hidden_size, generator=torch.Generator().manual_seed(1))
    own = defence.build_own(vlm, Materials(direction=direction), delta, alpha=1.0)
    for row, part in enumerate(list(own.delta)):
        _compare(part, delta[row], s)
    assert (own.scope, own.composition, own.alpha) == ("prefill", "direct", 1.0)


def _compare(part: Tensor, delta: Tensor, s: Sequence[Any]) -> None:
    for block in range(2):
        expected = (delta[block].numpy() @ s[block]) / (s[block] @ s[block]) * s[block]
        torch.testing.assert_close(part[block], torch.from_numpy(expected), atol=1e-5, rtol=1e-4)
