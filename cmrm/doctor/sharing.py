"""The check of shared prefixes: what prompts have in common, read once, leaves tokens and states as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from cmrm.capture import embed, read_batch
from cmrm.conditions import Prompt
from cmrm.doctor.patient import QUESTIONS, CheckFailedError, Patient
from cmrm.image_renderings import list_ids
from cmrm.images import WHITE, blank_image, noise_image
from cmrm.model import render
from cmrm.prefix import Prefix, Prefixes
from cmrm.sharing import explain_unshared

# Long enough for sharing to be worthwhile without an image; the second begins as the first and goes on otherwise.
FIRST = (
    "Here is a question. Look closely, take all the time that you need, think of whoever is going to read what you "
    "write, and answer in one short sentence: "
)
SECOND = f"{FIRST[: len(FIRST) * 3 // 4]} in your own words: "


def check_shared_prefixes(patient: Patient) -> str:
    """Prompts whose common beginning is read once have the tokens and states of prompts read whole.

    The beginning is read anew, kept from another batch, and cut; a model whose prompts are always read whole passes.
    """
    vlm, errors = patient.vlm, []
    if reason := explain_unshared(vlm, images=0):
        return f"read whole: {reason}"
    errors += _check_arm(patient, "text-only", None)
    if reason := explain_unshared(vlm, images=1):
        return f"equal to prompts read whole (error {max(errors):.1g}); {reason}"
    errors += _check_arm(patient, "blank", blank_image(size=patient.image_size, color=WHITE))
    one, other = (noise_image(size=patient.image_size, seed=patient.seed + row) for row in range(2))
    some = [
        Prompt(text=FIRST + text, image=image)
        for text, image in zip(QUESTIONS, (one, other, one), strict=True)
    ]
    errors.append(_compare(patient, Prefixes(vlm), some, "states with two images")[1])
    return f"equal to prompts read whole (error {max(errors):.1g})"


def _check_arm(patient: Patient, arm: str, image: Image.Image | None) -> list[float]:
    """The errors of three batches that show the same: one read anew, one that goes on from it, and one from a part."""
    prefixes, errors, lengths = Prefixes(patient.vlm), list[float](), list[int]()
    for what, start in (("", FIRST), (" that go on", FIRST), (" that go on from a part", SECOND)):
        prompts = [Prompt(text=start + question, image=image) for question in QUESTIONS]
        prefix, error = _compare(patient, prefixes, prompts, f"{arm} states{what}")
        errors.append(error)
        lengths.append(prefix.tokens)
    if lengths[2] >= lengths[0]:
        raise CheckFailedError(f"the {arm} beginning was not cut, so that was not tried")
    return errors


def _compare(
    patient: Patient, prefixes: Prefixes, prompts: Sequence[Prompt], what: str
) -> tuple[Prefix, float]:
    vlm, blocks = patient.vlm, range(len(patient.vlm.blocks))
    batch = prefixes.lay_out(prompts)
    if batch.prefix is None or batch.owners is None:
        raise CheckFailedError(f"{what}: the prompts were read whole, so nothing was tried")
    shared = batch.prefix.mask.sum(dim=1)[batch.owners].tolist()
    whole, rests = list_ids(render(vlm, prompts)), list_ids(batch.inputs)
    if [row[length:] for row, length in zip(whole, shared, strict=True)] != rests:
        raise CheckFailedError(
            f"{what}: the tokens after what is shared are others than in the whole prompts"
        )
    with torch.inference_mode():
        found = read_batch(vlm, batch, blocks=blocks)
    return batch.prefix, patient.agree(found, embed(vlm, prompts, blocks=blocks), what=what)
