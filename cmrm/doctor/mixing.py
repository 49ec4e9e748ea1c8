"""Check of arms that ask otherwise, and of arms that mix the logits of two prompts."""

from __future__ import annotations

from dataclasses import replace

import torch

from cmrm.decoding.api import why_apart
from cmrm.decoding.requests import DecodeRequest
from cmrm.decoding.scheduler import split_request
from cmrm.decoding.tree_decoder import TreeDecoder
from cmrm.doctor.answering import Steps, agree_in_steps, answer_mixed_naively
from cmrm.doctor.branching import RecordingRules, admit, make_recording_rules
from cmrm.doctor.fixture import STEPS, CheckFailedError, ModelFixture
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt

# What the other prompt says before the question, and the strength with which its logits are mixed.
BEFORE = "Think twice before you say anything. "
STRENGTH = 0.5


def check_own_prompts(fixture: ModelFixture) -> str:
    """A prompt of an arm's own, and logits of two prompts mixed at each token, are those of a naive, cache-free loop.

    A model whose arms are decoded one after the other passes.
    """
    reason = why_apart(fixture.vlm)
    if reason is not None:
        return f"not used with this model: {reason}"
    rules = _forbid_images(fixture.vlm, make_recording_rules(fixture))
    errors, firsts = [], []
    own = [replace(prompt, text=BEFORE + prompt.text) for prompt in fixture.pictured]
    for found, strength in zip(_decode(fixture, own, rules), (0.0, STRENGTH), strict=True):
        for row, (steps, other, plain) in enumerate(zip(found, own, fixture.pictured, strict=True)):
            naive = answer_mixed_naively(fixture, other, plain, strength=strength, never=rules.never)
            what = (
                f"question {row + 1} under its own prompt, mixed by {strength:g}, against a cache-free loop"
            )
            errors.append(agree_in_steps(fixture, steps, naive, what=what))
        firsts.append(found[0].logits[:, 0])
    if torch.equal(*firsts):
        raise CheckFailedError("mixing changed no logit, so this check tested nothing")
    return f"{len(errors)} answers equal a cache-free loop (error {max(errors):.1g})"


def _forbid_images(vlm: VisionLanguageModel, rules: RecordingRules) -> RecordingRules:
    """Allow no image token in an answer: the naive loop would look for its image."""
    token = vlm.image_token_id
    if token >= vlm.model.config.get_text_config().vocab_size:
        return rules
    never = torch.cat([rules.never, rules.never.new_tensor([token])])
    return replace(rules, never=never, never_first=never)


@torch.inference_mode()
def _decode(
    fixture: ModelFixture, own: list[Prompt], rules: RecordingRules
) -> tuple[list[Steps], list[Steps]]:
    """Decode all questions under prompts of their own, and with mixed logits, in one batch: the steps by question."""
    count = len(fixture.pictured)
    request = DecodeRequest(
        prompts=fixture.pictured, arms=[None, None], own_prompts={0: own, 1: own}, contrasts={1: STRENGTH}
    )
    # Two rows for each question whose logits are mixed.
    asked, mixed = split_request(request, 0, most=2 * count)
    tree = TreeDecoder(fixture.vlm, rows=3 * count, rules=rules)
    admit(fixture, tree, asked)
    admit(fixture, tree, mixed)
    for _ in range(STEPS - 1):
        tree.step()
    first, second, *later = rules.passes
    logits = [torch.cat([first, second])[: 2 * count], *(one[: 2 * count] for one in later)]
    steps = [
        Steps(logits=one, tokens=rules.narrow(one, begins=False).argmax(dim=-1))
        for one in torch.stack(logits, dim=2).unbind(dim=0)
    ]
    return steps[:count], steps[count:]
