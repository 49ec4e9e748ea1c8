"""A finished run of the small LLaVA with arms of several kinds, and exports of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flows.shared_runs import run_plainly

ARMS = [
    {"name": "CMRM", "alpha": [30.0, 60.0]},
    {"name": "own", "level": "sample"},
    {"name": "begin", "scope": "prefill"},
    {"kind": "random", "name": "turned"},
    {"kind": "direction", "name": "added", "scope": "every_step"},
    {"kind": "prompt", "name": "asked", "template": "please, {question}"},
    {"kind": "stack", "name": "both", "of": ["turned", "added"]},
]


@pytest.fixture(scope="session")
def finished(llava_folder, tmp_path_factory, write_short_spec) -> Path:
    """The folder of the run's spec and store."""
    folder = tmp_path_factory.mktemp("finished")
    spec = write_short_spec(folder / "data", llava_folder, interventions=ARMS, conditions=["image"])
    run_plainly(spec, folder / "store")
    return folder


@pytest.fixture(scope="session")
def questions(tmp_path_factory) -> Path:
    """Few questions for the canary, which take less time than those that cmrm has."""
    path = tmp_path_factory.mktemp("questions") / "questions.txt"
    path.write_text("what is it?\n\nname every colour\n")
    return path
