"""The random LLaVA, copied for each test: the doctor's tests break it, or split it over devices."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from cmrm.models.loading import load_model
from cmrm.models.revision import resolve_model
from cmrm.models.vlm import VisionLanguageModel


@pytest.fixture(scope="session")
def sound(llava_folder: Path) -> VisionLanguageModel:
    """The model as it was loaded."""
    return load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")


@pytest.fixture
def vlm(sound: VisionLanguageModel) -> VisionLanguageModel:
    """A copy of its weights and modules, with the processor that all share."""
    return copy.deepcopy(sound, {id(sound.processor): sound.processor})
