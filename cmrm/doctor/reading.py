"""Checks of hidden-state extraction: the right blocks, the right states, independent of batch and padding."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from cmrm.doctor.answering import answer
from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.models.vlm import last_prompt_positions, render
from cmrm.steering.capture import capture_states, embed


def check_blocks(fixture: ModelFixture) -> str:
    """All decoder blocks of the language model are found, in order, and nothing else."""
    vlm = fixture.vlm
    expected = int(vlm.model.config.get_text_config().num_hidden_layers)
    if len(vlm.blocks) != expected:
        raise CheckFailedError(f"found {len(vlm.blocks)} decoder blocks; config.json says {expected}")
    inside = set(vlm.decoder.modules())
    if strange := [number for number, block in enumerate(vlm.blocks) if block not in inside]:
        raise CheckFailedError(f"block {strange[0]} is not part of the language model")
    return f"{expected} blocks"


def check_states(fixture: ModelFixture) -> str:
    """Hooked states equal `output_hidden_states` at all blocks but the last, whose entry there is after the norm."""
    vlm, errors = fixture.vlm, []
    for row, prompt in enumerate(fixture.pictured):
        with torch.inference_mode():
            made = vlm.model.base_model(
                **fixture.render([prompt]), use_cache=False, output_hidden_states=True
            ).hidden_states
        if made is None:
            raise CheckFailedError(
                "the model returns no hidden states with which hooked ones could be compared"
            )
        if len(made) != len(vlm.blocks) + 1:
            raise CheckFailedError(
                f"the model returns {len(made)} hidden states for {len(vlm.blocks)} blocks and the embeddings"
            )
        reference = torch.stack([_read_last(state).to(vlm.device) for state in made[1:-1]])
        states = fixture.pictured_states[row, :-1]
        errors.append(fixture.agree(states, reference, what=f"question {row + 1}"))
    return f"equal output_hidden_states (error {max(errors):.1g})"


def _read_last(state: Tensor) -> Tensor:
    """The last token's state of one row: of parallel streams, all of them."""
    return state[0, -1] if state.dim() == 3 else state[:, 0, -1].flatten()


def check_answering(fixture: ModelFixture) -> str:
    """The states extracted from a prompt are those from which its answer is generated, with and without an image."""
    vlm, errors = fixture.vlm, []
    blocks = range(len(vlm.blocks))
    for kind, prompts in (("text", fixture.text), ("image", fixture.pictured)):
        inputs = fixture.render(prompts)
        positions = last_prompt_positions(inputs["attention_mask"])
        with capture_states(vlm, blocks=blocks, positions=positions) as captured:
            answer(vlm, inputs, use_cache=True)
        # In the same batch: other checks cover what batching does to states.
        extracted = embed(vlm, prompts, blocks=blocks, rendered=fixture.render(prompts))
        errors.append(
            fixture.agree(captured.stack(blocks), extracted, what=f"{kind} prompts while generating")
        )
    return f"generated from the extracted states (error {max(errors):.1g})"


def check_left_padding(fixture: ModelFixture) -> str:
    """A batch padded on the left gives the states of each question asked alone."""
    return _check_padding(fixture, "left")


def check_right_padding(fixture: ModelFixture) -> str:
    """A batch padded on the right gives the states of each question asked alone."""
    return _check_padding(fixture, "right")


def _check_padding(fixture: ModelFixture, side: Literal["left", "right"]) -> str:
    if reason := fixture.explain_no_batches():
        return reason
    vlm = fixture.vlm
    blocks = range(len(vlm.blocks))
    with _padded(fixture, side):
        for kind, prompts in (("text", fixture.text), ("image", fixture.pictured)):
            _demand_padding(render(vlm, prompts)["attention_mask"], side, kind)
        text, pictured = (embed(vlm, prompts, blocks=blocks) for prompts in (fixture.text, fixture.pictured))
    errors = (
        fixture.agree(text, fixture.text_states, what="states of text prompts"),
        fixture.agree(pictured, fixture.pictured_states, what="states of image prompts"),
    )
    return f"a batch of {len(text)} equals {len(text)} alone (error {max(errors):.1g})"


def _demand_padding(mask: Tensor, side: str, kind: str) -> None:
    first, last = bool(mask[:, 0].all()), bool(mask[:, -1].all())
    if (first, last) != ((False, True) if side == "left" else (True, False)):
        raise CheckFailedError(
            f"the {kind} prompts were not padded on the {side}, so this check tested nothing"
        )


@contextmanager
def _padded(fixture: ModelFixture, side: Literal["left", "right"]) -> Iterator[None]:
    tokenizer = fixture.vlm.processor.tokenizer
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        yield
    finally:
        tokenizer.padding_side = before
