"""Checks of prompts: the text-only arm holds no image token, and the arms differ by the image alone."""

from __future__ import annotations

from cmrm.conditions import Prompt
from cmrm.doctor.patient import CheckFailedError, Patient
from cmrm.model import render

# Where the image is taken out, the tokens beside the gap may be cut in another way: a space, a new line.
MOST_RECUT = 3


def check_image_tokens(patient: Patient) -> str:
    """The text-only arm has no image token, the other has some."""
    token = patient.vlm.image_token_id
    without = int((render(patient.vlm, patient.text)["input_ids"] == token).sum())
    counts = (render(patient.vlm, patient.pictured)["input_ids"] == token).sum(dim=1).tolist()
    if without:
        raise CheckFailedError(f"the text-only prompts hold {without} image tokens")
    if not all(counts):
        raise CheckFailedError("a prompt with an image holds no image token")
    return f"{min(counts)} to {max(counts)} with an image, 0 without"


def check_same_template(patient: Patient) -> str:
    """Both arms have the same tokens but for one run of them, where the image stands (law 4)."""
    tokenizer = patient.vlm.processor.tokenizer
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}
    worst = 0
    for text, pictured in zip(patient.text, patient.pictured, strict=True):
        short, long = _tokens(patient, text), _tokens(patient, pictured)
        before = _count_common(short, long)
        after = min(_count_common(short[::-1], long[::-1]), len(short) - before)
        if after == 0:
            raise CheckFailedError("the prompts end in different tokens: one arm has another template")
        if marks & set(long[before : len(long) - after]) - set(short[before : len(short) - after]):
            raise CheckFailedError(
                "the text-only prompt lacks a mark of its beginning or end that the other has"
            )
        worst = max(worst, len(short) - before - after)
    if worst > MOST_RECUT:
        raise CheckFailedError(f"besides the image, the arms differ in {worst} tokens")
    return f"equal but for the image ({worst} tokens recut)"


def _tokens(patient: Patient, prompt: Prompt) -> list[int]:
    inputs = render(patient.vlm, [prompt])
    ids: list[int] = inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()
    return ids


def _count_common(first: list[int], second: list[int]) -> int:
    pairs = zip(first, second, strict=False)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), len(first))
