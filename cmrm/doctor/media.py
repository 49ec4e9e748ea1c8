"""Check of several images, video and sound, of those that a model's row says it takes."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from cmrm.doctor.fixture import CheckFailedError, ModelFixture
from cmrm.doctor.prompts import compare_prompts
from cmrm.models.families import MediaForm
from cmrm.models.image_tokens import find_image_tokens
from cmrm.models.media import NAMES, explain_unprinted, list_kinds
from cmrm.models.oom import is_out_of_memory
from cmrm.models.vlm import render
from cmrm.prefix.planner import Prefixes
from cmrm.prefix.sharing import explain_unshared
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.counterparts import make_counterparts
from cmrm.prompts.meaningless_images import MeaninglessImage
from cmrm.prompts.media import goes_alone
from cmrm.steering.capture import embed, read_batch
from cmrm.steering.hooks import embed_steered
from cmrm.steering.intervention import Intervention
from cmrm.steering.shift import measure_sample_shift
from cmrm.untrusted.printable import first_line

log = logging.getLogger("cmrm.models")

BLANK = MeaninglessImage(kind="blank", size=1)
NOISE = MeaninglessImage(kind="noise", size=1, seed=99)


def check_media(fixture: ModelFixture) -> str:
    """Several images, video, sound and some of each, where the row lists them, obey the laws of one image.

    They take as many tokens as their blank and noise counterparts, and change the states; shared prefixes of them equal
    whole prompts. A type whose row lists one image alone passes.
    """
    said = []
    for form in fixture.vlm.family.media:
        try:
            said.append(f"{NAMES[form]}: {_check(replace(fixture, form=form))}")
        except CheckFailedError as error:
            raise CheckFailedError(f"{NAMES[form]}: {error}") from None
    return ". ".join(said) or "one image alone: its row lists no more"


def find_forms(fixture: ModelFixture) -> tuple[MediaForm, ...]:
    """Find the forms of media for which the check passes, of those that the model's processor has a part for."""
    owners: Mapping[MediaForm, Sequence[str]] = {
        "video": ("video_processor",),
        "audio": ("feature_extractor", "audio_processor"),
    }
    parts = fixture.vlm.processor
    tried: list[MediaForm] = [
        one for one, names in owners.items() if any(hasattr(parts, name) for name in names)
    ]
    found: list[MediaForm] = [one for one in ("images", *tried) if _passes(fixture, one, [one])]
    others = [one for one in found if one != "images"]
    return (*found, "mixed") if others and _passes(fixture, "mixed", [*others, "mixed"]) else tuple(found)


def _passes(fixture: ModelFixture, form: MediaForm, media: Sequence[MediaForm]) -> bool:
    family = replace(fixture.vlm.family, media=tuple(media))
    try:
        _check(replace(fixture, vlm=replace(fixture.vlm, family=family), form=form))
    except Exception as error:
        if is_out_of_memory(error):
            raise
        log.info("%s: %s fails: %s", family.model_type, NAMES[form], first_line(error))
        return False
    return True


def _check(fixture: ModelFixture) -> str:
    said = [_check_counterparts(fixture), f"{compare_prompts(fixture)} tokens split differently"]
    if not any(goes_alone(list_kinds(prompt)) for prompt in fixture.pictured):
        said.append(_check_batch(fixture))
    return "; ".join([*said, _check_sharing(fixture), _check_exactness(fixture)])


def _check_counterparts(fixture: ModelFixture) -> str:
    """Blank and noise take as many tokens as the media themselves, and the model sees the difference."""
    vlm = fixture.vlm
    counts = list[int]()
    for number, prompt in enumerate(fixture.pictured):
        kinds = list_kinds(prompt)
        reason = explain_unprinted(
            vlm.processor,
            vlm.template,
            kinds,
            form=vlm.system_form,
            system=vlm.family.system,
            who=vlm.family.model_type,
        )
        if reason is not None:
            raise CheckFailedError(reason)
        others = [replace(prompt, media=make_counterparts(prompt.media, one)) for one in (BLANK, NOISE)]
        own, blank, noise = [_count(fixture, one) for one in (prompt, *others)]
        if not own == blank == noise:
            raise CheckFailedError(
                f"question {number + 1} takes {own} tokens (medium, all) with its own {', '.join(kinds)}, {blank} with "
                f"a blank counterpart and {noise} with noise: what is subtracted would not be of the same length"
            )
        counts.append(own[0])
    if not all(counts):
        raise CheckFailedError("a prompt holds no token of what it shows")
    first = fixture.pictured[0]
    blank_states = embed(
        vlm, [replace(first, media=make_counterparts(first.media, BLANK))], blocks=fixture.blocks
    )
    own_states = fixture.pictured_states[:1, list(fixture.blocks)]
    if float((own_states - blank_states).norm() / own_states.norm()) <= fixture.tolerance:
        raise CheckFailedError(
            "blank media give the states of the media themselves: the model does not see them"
        )
    return f"{min(counts)} to {max(counts)} tokens, as many blank or noise"


def _count(fixture: ModelFixture, prompt: Prompt) -> tuple[int, int]:
    inputs = render(fixture.vlm, [prompt])
    return int(find_image_tokens(fixture.vlm, inputs).sum()), int(inputs["attention_mask"].sum())


def _check_batch(fixture: ModelFixture) -> str:
    """Prompts with different numbers of media give in a batch the states that each gives alone."""
    blocks = range(len(fixture.vlm.blocks))
    together = embed(fixture.vlm, fixture.pictured, blocks=blocks)
    error = fixture.agree(together, fixture.pictured_states, what="states in a batch")
    return f"a batch of {len(together)} equals {len(together)} alone (error {error:.1g})"


@torch.inference_mode()
def _check_sharing(fixture: ModelFixture) -> str:
    """Questions about the same media, whose prefix is prefilled once, have the states of whole prompts."""
    vlm, blocks = fixture.vlm, range(len(fixture.vlm.blocks))
    if reason := explain_unshared(vlm, images=1):
        return f"not shared: {reason}"
    prompts = [replace(one, media=fixture.pictured[0].media) for one in fixture.pictured]
    batch = Prefixes(vlm).lay_out(prompts)
    if batch.prefix is None:
        raise CheckFailedError("questions about the same media share no prefix, so that was not tested")
    found = read_batch(vlm, batch, blocks=blocks)
    whole = torch.cat([embed(vlm, [one], blocks=blocks) for one in prompts])
    error = fixture.agree(found, whole, what="states after a shared prefix")
    return f"a shared prefix equals whole prompts (error {error:.1g})"


def _check_exactness(fixture: ModelFixture) -> str:
    """With each question's own Δ, one block and α = 1, the state at that block is the text prompt's (law 1)."""
    vlm, block = fixture.vlm, fixture.blocks[len(fixture.blocks) // 2]
    errors = []
    for row, (shown, text) in enumerate(zip(fixture.pictured, fixture.text, strict=True)):
        own = measure_sample_shift(vlm, with_image=[shown], text_only=[text], blocks=[block])
        steered = embed_steered(
            vlm, [shown], blocks=(block,), intervention=Intervention(delta=own, alpha=1.0, blocks=(block,))
        )
        expected = fixture.text_states[row : row + 1, [block]]
        errors.append(fixture.agree(steered, expected, what=f"block {block}, α = 1, against the text prompt"))
    far = float((fixture.pictured_states - fixture.text_states).norm() / fixture.text_states.norm())
    if far <= fixture.tolerance:
        raise CheckFailedError(f"the media hardly move the states ({far:.1g}), so this check tested nothing")
    return f"α = 1 undoes a shift of {far:.2g} (error {max(errors):.1g})"
