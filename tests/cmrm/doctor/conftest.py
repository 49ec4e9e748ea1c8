"""The random LLaVA, a copy for each test: the doctor's tests break it, or spread it over devices."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from cmrm.loading import load_model
from cmrm.model import VisionLanguageModel
from cmrm.revision import resolve_model


@pytest.fixture(scope="session")
def sound(llava_folder: Path) -> VisionLanguageModel:
    """The model as it was loaded."""
    return load_model(resolve_model(str(llava_folder)), dtype="float32", device="cpu")


@pytest.fixture
def vlm(sound: VisionLanguageModel) -> VisionLanguageModel:
    """A copy of its weights and modules, with the processor that all share."""
    return copy.deepcopy(sound, {id(sound.processor): sound.processor})
