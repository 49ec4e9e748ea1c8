"""The tiny models, each loaded once."""

from __future__ import annotations

from functools import cache

import pytest

from tests.conformance.loading import Load, load_tiny


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The tiny model of a family that needs no torchvision, loaded once."""
    return cache(lambda name: load_tiny(name, tmp_path_factory.mktemp(name)))
