"""A finished run whose names, questions and answers are hostile, and the smallest real one."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.store import Store
from tasks.report import stage as report
from tests.made_up_run import make_up

RUN = "20260101-000000-abcdef"


def record_run(store: Store, run_id: str, *, samples: int, judges: tuple[str, ...]) -> None:
    """Commit a made-up run without figures and record it as finished."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "find_groups", lambda *_: {})
        made = make_up(store, samples=samples, strengths=(1.0,), judges=judges)
    models = [{"name": name, "label": name} for name in ("llava-tiny",)]
    spec = {
        "model": {"id": "nowhere"},
        "datasets": {"vlsafe": {"format": "jsonl", "path": "/nowhere.jsonl"}},
        "anchors": {"from": {"vlsafe": 0.5}},
    }
    store.write_run(run_id, {"status": "finished", "keys": made.keys, "models": models, "spec": spec})


@pytest.fixture(scope="session")
def hostile_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the run RUN, of 12 samples each of two harmful data sets in 7 arms, and two judges of safety."""
    folder = tmp_path_factory.mktemp("hostile") / "store"
    record_run(Store.create(folder), RUN, samples=12, judges=("refusal", "guard"))
    return folder
