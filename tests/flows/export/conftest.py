"""What exports of a finished run are proved with."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """Few questions for the canary, which take less time than those that cmrm has."""
    path = tmp_path_factory.mktemp("questions") / "questions.txt"
    path.write_text("what is it?\n\nname every colour\n")
    return path
