"""The random LLaVA, loaded, and prompts for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel
from cmrm.prompts.conditions import Prompt
from cmrm.prompts.meaningless_images import blank_image, noise_image

QUESTIONS = ("what is it?", "name every colour that you can see in the picture", "hi")


@pytest.fixture(scope="session")
def vlm(llava_folder: Path) -> VisionLanguageModel:
    """The random LLaVA in float32."""
    return load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")


@pytest.fixture
def text_prompts() -> Sequence[Prompt]:
    """Three questions of different lengths, without an image."""
    return [Prompt(text=question) for question in QUESTIONS]


@pytest.fixture
def blank_prompts() -> Sequence[Prompt]:
    """The same questions with a blank image."""
    image = blank_image(size=32, color=(255, 255, 255))
    return [Prompt(text=question, image=image) for question in QUESTIONS]


@pytest.fixture
def noise_prompts() -> Sequence[Prompt]:
    """The same questions with a noise image."""
    return [Prompt(text=question, image=noise_image(size=32, seed=7)) for question in QUESTIONS]
