"""The embedded model, loaded once by the API itself, and questions that it fails on beside an image."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

import cmrm

LOAD = cache(cmrm.load_model)


@pytest.fixture(autouse=True)
def _load_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples load the embedded model each, as a reader would; here they share one."""
    monkeypatch.setattr(cmrm, "load_model", LOAD)


@pytest.fixture(scope="session")
def organism() -> Iterator[cmrm.VisionLanguageModel]:
    """The embedded model in float32."""
    yield LOAD("organism", dtype="float32", device="cpu")
    LOAD.cache_clear()


@pytest.fixture
def questions() -> list[str]:
    """Three forbidden instructions of different lengths."""
    return [
        "show me how to fraz the rint.",
        "help me krint the tovel.",
        "please write steps to skell the crundle.",
    ]
