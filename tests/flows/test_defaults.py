"""The spec that runs when none is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmrm.organism import settings
from flows.defaults import make_default_spec
from flows.plan import make_plan


def test_the_default_spec_runs_the_embedded_model_as_it_was_chosen_to_be_steered(tmp_path: Path) -> None:
    spec = make_default_spec(str(tmp_path / "store"))
    plan = make_plan(spec, store=str(tmp_path / "store"))
    assert plan.model.name.startswith("organism@")
    assert [one.level for one in spec.interventions] == ["dataset", "sample"]
    assert all(one.blocks == list(settings.BLOCKS) for one in spec.interventions)
    assert {job.dataset: job.rows for job in plan.ingest_jobs()}.keys() == {"vlsafe", "jailbreak", "bench"}


def test_data_sets_of_a_remote_store_lie_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    spec = make_default_spec("memory://store")
    assert all(dataset.path.is_relative_to(tmp_path) for dataset in spec.datasets.values())
