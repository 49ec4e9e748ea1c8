"""The spec that runs when none is given."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_type_hints

import pytest

from cmrm.errors import UserError
from cmrm.organism import settings
from cmrm.steering.intervention import Intervention
from flows.plan.plan import make_plan
from flows.spec.defaults import make_default_spec
from flows.spec.interventions import InterventionSpec
from flows.spec.organism import place_organism
from flows.spec.spec import read_spec
from storage.store import Store


def test_the_default_spec_runs_the_embedded_model_as_it_was_chosen_to_be_steered(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "store")
    plan = make_plan(place_organism(make_default_spec()), store=store)
    assert [model.name.split("@")[0] for model in plan.models] == ["organism"]
    assert [one.level for one in plan.spec.interventions] == ["dataset", "sample"]
    assert all(one.blocks == list(settings.BLOCKS) for one in plan.spec.interventions)
    assert [job.dataset for job in plan.ingest_jobs({})] == ["vlsafe", "jailbreak", "bench"]


def test_an_intervention_in_python_and_in_a_spec_is_the_same_where_nothing_is_said() -> None:
    shared = {field.name: field.default for field in fields(Intervention) if field.default is not MISSING}
    assert shared == {"scope": "every_step", "composition": "incremental"}
    for name, default in shared.items():
        assert InterventionSpec.model_fields[name].default is default
        assert get_type_hints(InterventionSpec)[name] == get_type_hints(Intervention)[name]


def test_the_embedded_models_data_sets_lie_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CMRM_CACHE", str(tmp_path))
    spec = place_organism(make_default_spec())
    assert all(dataset.path.is_relative_to(tmp_path) for dataset in spec.datasets.values())


def test_a_folder_of_the_users_own_goes_before_the_embedded_model_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "organism").mkdir()
    path = tmp_path / "spec.yaml"
    path.write_text(
        "model: {id: organism}\ndatasets: {d: {format: jsonl, path: d.jsonl}}\nanchors: {from: {d: 0.5}}\n"
    )
    spec = place_organism(read_spec(path))
    assert spec.model is not None
    assert spec.model.id == str(tmp_path / "organism")


def test_a_path_that_the_embedded_model_does_not_have_is_answered_with_those_it_has(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(
        "model: {id: organism}\n"
        "datasets: {d: {format: jsonl, path: organism://none.jsonl}}\n"
        "anchors: {from: {d: 0.5}}\n"
    )
    with pytest.raises(UserError, match=r"organism://vlsafe/harmlessness_examine\.jsonl"):
        place_organism(read_spec(path))
