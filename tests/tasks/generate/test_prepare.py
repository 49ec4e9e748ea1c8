"""Prompts that arms ask in place of the plain ones: rendered once, and counted as arms that share no prefill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel, render
from cmrm.prefix.renderer import Renderer
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import noise_image
from tasks.shards.prompts import Shown, prepare_own
from tasks.states.steering import DefenceUse, StackUse, StepUse, Use, asks_otherwise

PLAIN = [
    Prompt(text=text, image=noise_image(size=32, seed=row)) for row, text in enumerate(("what?", "why?"))
]
POLITE = DefenceUse(name="polite", kind="prompt", alpha=None, options={"template": "please: {question}"})
ABLATION = DefenceUse(name="ablation", kind="project", alpha=1.0)
ECSO = DefenceUse(name="ecso", kind="ecso", alpha=None)
SHIFTDC = DefenceUse(name="shiftdc", kind="shiftdc", alpha=1.0)


@pytest.fixture
def vlm(llava_folder: Path) -> VisionLanguageModel:
    return load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")


def show(vlm: VisionLanguageModel) -> tuple[Renderer, Shown]:
    renderer = Renderer(vlm)
    rendered = renderer.render(PLAIN)
    return renderer, Shown(
        samples=[], prompts=PLAIN, quarantined=[], rendered=rendered.inputs, renderings=rendered.renderings
    )


def test_a_changed_question_about_the_same_image_is_carried_as_token_ids(vlm: VisionLanguageModel) -> None:
    renderer, shown = show(vlm)
    own = [replace(prompt, text=f"please: {prompt.text}") for prompt in PLAIN]
    made = prepare_own(renderer, shown, own)
    assert made.ids is not None
    assert [list(ids) for ids in made.ids] == [
        render(vlm, [prompt])["input_ids"][0].tolist() for prompt in own
    ]
    assert made.refused == {}


def test_other_prompts_are_carried_as_they_were_rendered_unless_one_is_refused(
    vlm: VisionLanguageModel,
) -> None:
    renderer, shown = show(vlm)
    own = [replace(prompt, image=None) for prompt in PLAIN]
    made = prepare_own(renderer, shown, [own[0], replace(own[1], image=noise_image(size=32, seed=9))])
    assert made.ids is None
    assert made.rendered is not None
    assert made.rendered["input_ids"].shape[0] == len(own)
    refused = prepare_own(renderer, shown, [own[0], replace(own[1], text="<image>")])
    assert list(refused.refused) == [1]
    assert refused.rendered is None


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (POLITE, True),
        (ABLATION, False),
        (StackUse(name="both", parts=(ABLATION, POLITE)), True),
        (StepUse(name="ecso", of=ECSO, step="judgement", earlier=(("plain", "key"),)), True),
        (StepUse(name="shiftdc", of=SHIFTDC, step="caption", earlier=()), True),
        (StepUse(name="shiftdc", of=SHIFTDC, step="answer", earlier=(("caption", "key"),)), False),
    ],
)
def test_what_asks_otherwise_is_known_before_any_answer(use: Use, expected: bool) -> None:  # noqa: FBT001 - of pytest's
    assert asks_otherwise(use) is expected
