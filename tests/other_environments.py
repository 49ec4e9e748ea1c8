"""Environments of other people's programs, which the Makefile makes of the lists in tests/environments/."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

LISTS = Path(__file__).with_name("environments")
# On the path of a process, it lets torchvision be imported beside a torch for CPUs alone.
TORCHVISION_SITE = LISTS / "torchvision_site"


def find_environment(name: str, *, target: str) -> str:
    """The interpreter of an environment; skips where the Makefile's target could not make it."""
    python = Path(os.environ["CMRM_ENVIRONMENTS"]) / name / "bin" / "python"
    if not python.exists():
        pytest.skip(f"there is no environment for {name}: make {target} says why")
    return str(python)
