"""A finished run whose names, questions and answers are hostile, with its report and figures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from flows.report.files import write_report_files
from storage.store import Store
from tasks.report import stage as report
from tasks.report.summary import read_summary
from tests.made_up_run import make_up

RUN = "20260101-000000-abcdef"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one run of 12 samples of each of three data sets in seven arms."""
    folder = tmp_path_factory.mktemp("hostile") / "store"
    opened = Store.create(folder)
    with pytest.MonkeyPatch.context() as patch:
        # Other figures will do, which take less time to draw.
        patch.setattr(report, "find_groups", lambda *_: {})
        made = make_up(opened, samples=12, strengths=(1.0,))
    summary = read_summary(opened, made.report)
    files = write_report_files(
        opened, run_id=RUN, report=made.report, summary=summary, keys=made.keys, store_name="store"
    )
    models = [dict(model) for model in summary.models]
    spec = {"model": {"id": "nowhere"}, "datasets": {"vlsafe": {}, "jailbreak": {}, "bench": {}}}
    opened.write_run(
        RUN,
        {
            "status": "finished",
            "keys": made.keys,
            "model": models[0]["name"],
            "models": models,
            "judges": [{"name": "refusal", "revision": None}, {"name": "match", "revision": None}],
            "spec": spec,
            "files": [asdict(file) for file in files],
        },
    )
    return folder
