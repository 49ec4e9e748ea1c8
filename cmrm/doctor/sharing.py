"""Check of the prefix cache: prefilling a shared prefix once changes neither tokens nor hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from cmrm.doctor.fixture import QUESTIONS, CheckFailedError, ModelFixture
from cmrm.models.vlm import render
from cmrm.prefix.image_prompts import continue_rendering, list_ids, render_with_tokenizer_spy
from cmrm.prefix.planner import Prefix, Prefixes
from cmrm.prefix.sharing import explain_unshared
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import WHITE, blank_image, noise_image
from cmrm.steering.capture import embed, read_batch

# Long enough for the planner to share a prefix without an image; the second diverges from the first.
FIRST = (
    "Here is a question. Look closely, take all the time that you need, think of whoever is going to read what you "
    "write, and answer in one short sentence: "
)
SECOND = f"{FIRST[: len(FIRST) * 3 // 4]} in your own words: "
# What a question may begin with, right behind an image.
STARTS = ("", " ", "\n", "<", "(", "\u00e9")


def check_shared_prefixes(fixture: ModelFixture) -> str:
    """Prompts whose shared prefix is prefilled once have the tokens and states of prompts prefilled whole.

    The prefix is prefilled, reused from the cache, and cropped; a model that cannot share prefixes passes.
    """
    vlm, errors = fixture.vlm, []
    if reason := explain_unshared(vlm, images=0):
        return f"prefix sharing is off: {reason}"
    errors += _check_reuse(fixture, "text", None)
    if reason := "text-only" if vlm.text_only else explain_unshared(vlm, images=1):
        return f"equal to whole prompts (error {max(errors):.1g}); {reason}"
    errors += _check_reuse(fixture, "blank", blank_image(size=fixture.image_size, color=WHITE))
    one, other = (noise_image(size=fixture.image_size, seed=fixture.seed + row) for row in range(2))
    _check_continued(fixture, one)
    some = [
        Prompt(text=FIRST + text, image=image)
        for text, image in zip(QUESTIONS, (one, other, one), strict=True)
    ]
    errors.append(_compare(fixture, Prefixes(vlm), some, "states with two images")[1])
    return f"equal to whole prompts (error {max(errors):.1g})"


def _check_reuse(fixture: ModelFixture, condition: str, image: Image.Image | None) -> list[float]:
    """Return the errors of three batches: a prefix cache miss, a hit, and a hit that crops the prefix."""
    prefixes, errors, lengths = Prefixes(fixture.vlm), list[float](), list[int]()
    for what, start in ((", cache miss", FIRST), (", cache hit", FIRST), (", cropped prefix", SECOND)):
        prompts = [Prompt(text=start + question, image=image) for question in QUESTIONS]
        prefix, error = _compare(fixture, prefixes, prompts, f"states under {condition}{what}")
        errors.append(error)
        lengths.append(prefix.tokens)
    if lengths[2] >= lengths[0]:
        raise CheckFailedError(f"the prefix under {condition} was not cropped, so that was not tested")
    return errors


def _check_continued(fixture: ModelFixture, image: Image.Image) -> None:
    """Check that what follows an image has the tokens of a whole prompt, however it begins."""
    vlm = fixture.vlm
    prompts = [Prompt(text=start + QUESTIONS[0], image=image) for start in STARTS]
    _inputs, (rendering,) = render_with_tokenizer_spy(vlm, prompts[:1])
    found = None if rendering is None else continue_rendering(vlm, rendering, prompts)
    if found is not None and found != list_ids(render(vlm, prompts)):
        raise CheckFailedError(
            "the processor changes what follows an image by how it begins; say `shares: text` in model.family"
        )


def _compare(
    fixture: ModelFixture, prefixes: Prefixes, prompts: Sequence[Prompt], what: str
) -> tuple[Prefix, float]:
    vlm, blocks = fixture.vlm, range(len(fixture.vlm.blocks))
    batch = prefixes.lay_out(prompts)
    if batch.prefix is None or batch.owners is None:
        raise CheckFailedError(f"{what}: no prefix was shared, so this check tested nothing")
    shared = batch.prefix.mask.sum(dim=1)[batch.owners].tolist()
    whole, rests = list_ids(render(vlm, prompts)), list_ids(batch.inputs)
    if [row[length:] for row, length in zip(whole, shared, strict=True)] != rests:
        raise CheckFailedError(
            f"{what}: the tokens after the shared prefix differ from those of the whole prompts"
        )
    with torch.inference_mode():
        found = read_batch(vlm, batch, blocks=blocks)
    return batch.prefix, fixture.agree(found, embed(vlm, prompts, blocks=blocks), what=what)
