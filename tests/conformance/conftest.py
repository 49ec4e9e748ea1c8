"""The tiny models, each loaded once, and what was examined of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conformance.examining import Examined, examine_all
from tests.conformance.loading import Load, load_tiny
from tests.made_once import find_shared


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Load:
    """The tiny model of a family that needs no torchvision, loaded once."""
    return cache(lambda name: load_tiny(name, tmp_path_factory.mktemp(name)))


@pytest.fixture(scope="session")
def conformance_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all processes of the tests share for examinations."""
    folder = find_shared("conformance", tmp_path_factory)
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def examine(request: pytest.FixtureRequest, conformance_folder: Path) -> Callable[[str], Examined]:
    """The reader of what was found in a part, by family.

    Every part is examined that a module of this run of the tests names as `EXAMINED`, which is the same in all
    processes: each family is loaded once.
    """
    named = {name for item in request.session.items for name in getattr(item.module, "EXAMINED", ())}  # type: ignore[attr-defined] # tests are functions of modules
    families = cache(lambda: examine_all(conformance_folder, named))
    return lambda part: Examined(part, families())
