"""Checks of reading: the right blocks, the right states, those answers are made from, whoever shares the batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

from cmrm.capture import capture_states, embed
from cmrm.doctor.answering import answer
from cmrm.doctor.patient import CheckFailedError, Patient
from cmrm.model import last_prompt_positions, render


def check_blocks(patient: Patient) -> str:
    """All blocks of the language model are found, in order, and nothing else."""
    vlm = patient.vlm
    expected = int(vlm.model.config.get_text_config().num_hidden_layers)
    if len(vlm.blocks) != expected:
        raise CheckFailedError(f"{len(vlm.blocks)} blocks were found; config.json says {expected}")
    inside = set(vlm.decoder.modules())
    if strange := [number for number, block in enumerate(vlm.blocks) if block not in inside]:
        raise CheckFailedError(f"block {strange[0]} is no part of the language model")
    return f"{expected} blocks"


def check_states(patient: Patient) -> str:
    """States by hook equal `output_hidden_states` for all but the last block, whose entry there is after the norm."""
    vlm, errors = patient.vlm, []
    for row, prompt in enumerate(patient.pictured):
        with torch.inference_mode():
            made = vlm.model.base_model(
                **render(vlm, [prompt]), use_cache=False, output_hidden_states=True
            ).hidden_states
        if len(made) != len(vlm.blocks) + 1:
            raise CheckFailedError(
                f"the model returns {len(made)} hidden states for {len(vlm.blocks)} blocks and the embeddings"
            )
        reference = torch.stack([state[0, -1].to(vlm.device) for state in made[1:-1]])
        states = patient.pictured_states[row, :-1]
        errors.append(patient.agree(states, reference, what=f"question {row + 1}"))
    return f"equal output_hidden_states (error {max(errors):.1g})"


def check_answering(patient: Patient) -> str:
    """Answers are made from the very states that are read, in both arms."""
    vlm, errors = patient.vlm, []
    blocks = range(len(vlm.blocks))
    for arm, prompts in (("text-only", patient.text), ("image", patient.pictured)):
        inputs = render(vlm, prompts)
        positions = last_prompt_positions(inputs["attention_mask"])
        with capture_states(vlm, blocks=blocks, positions=positions) as captured:
            answer(vlm, inputs, use_cache=True)
        # Read of the same batch, since what a batch does to states has checks of its own.
        read = embed(vlm, prompts, blocks=blocks)
        errors.append(patient.agree(captured.stack(blocks), read, what=f"{arm} states of answers"))
    return f"made from the states that are read (error {max(errors):.1g})"


def check_left_padding(patient: Patient) -> str:
    """A batch padded on the left gives the states of each question asked alone."""
    return _check_padding(patient, "left")


def check_right_padding(patient: Patient) -> str:
    """A batch padded on the right gives the states of each question asked alone."""
    return _check_padding(patient, "right")


def _check_padding(patient: Patient, side: Literal["left", "right"]) -> str:
    vlm = patient.vlm
    blocks = range(len(vlm.blocks))
    with _padded(patient, side):
        for arm, prompts in (("text-only", patient.text), ("image", patient.pictured)):
            _demand_padding(render(vlm, prompts)["attention_mask"], side, arm)
        text, pictured = (embed(vlm, prompts, blocks=blocks) for prompts in (patient.text, patient.pictured))
    errors = (
        patient.agree(text, patient.text_states, what="text-only states"),
        patient.agree(pictured, patient.pictured_states, what="states with an image"),
    )
    return f"a batch of {len(text)} equals {len(text)} alone (error {max(errors):.1g})"


def _demand_padding(mask: Tensor, side: str, arm: str) -> None:
    first, last = bool(mask[:, 0].all()), bool(mask[:, -1].all())
    if (first, last) != ((False, True) if side == "left" else (True, False)):
        raise CheckFailedError(f"the {arm} prompts were not padded on the {side}, so nothing was tried")


@contextmanager
def _padded(patient: Patient, side: Literal["left", "right"]) -> Iterator[None]:
    tokenizer = patient.vlm.processor.tokenizer
    before = tokenizer.padding_side
    tokenizer.padding_side = side
    try:
        yield
    finally:
        tokenizer.padding_side = before
