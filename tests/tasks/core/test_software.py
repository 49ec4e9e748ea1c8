"""Each manifest records the versions that made it; a report and a comparison say where they differ."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest

from storage.records.manifest import Manifest
from storage.store import Store
from tasks.compare.matching import _find_other_software
from tasks.core.software import PACKAGES, describe_software, gather_software, list_software
from tests.flows.shared_runs import run_plainly


def make(**software: str) -> Manifest:
    return Manifest(
        stage="generate",
        key="0" * 64,
        schema_version=1,
        files=(),
        content={},
        provenance={"software": software},
        created_at="2026-01-01T00:00:00+00:00",
    )


def test_versions_are_those_that_are_installed() -> None:
    assert set(list_software()) == set(PACKAGES)
    for name in ("torch", "transformers", "tokenizers", "pillow"):
        assert list_software()[name] == version(name)


def test_what_was_made_with_several_versions_says_so() -> None:
    found = gather_software([make(torch="2.13.0", pillow="12.3.0"), make(torch="2.13.0", pillow="13.0.0")])
    assert found == {"pillow": ["12.3.0", "13.0.0"], "torch": ["2.13.0"]}
    assert describe_software({**found, "torchvision": ["none"]}) == [
        "States and answers were made with pillow 12.3.0 and 13.0.0, torch 2.13.0.",
        "They were not all made with the same pillow: differences between them may come from that.",
    ]
    assert describe_software({}) == []


def test_the_image_backend_is_reported_with_the_packages() -> None:
    made = [
        replace(make(torch="2.13.0"), content={"image_backend": "pillow 13.0.0"}),
        replace(make(torch="2.13.0"), content={"image_backend": "torchvision 0.28.0, pillow 13.0.0"}),
    ]
    assert gather_software(made)["image backend"] == ["pillow 13.0.0", "torchvision 0.28.0, pillow 13.0.0"]
    assert list(_find_other_software([made[:1], made[1:]])) == [
        "Answers were made with other software, a possible cause of changes: image backend pillow 13.0.0 → "
        "torchvision 0.28.0, pillow 13.0.0"
    ]
    assert list(_find_other_software([[make(torch="2.13.0")], made[1:]])) == []


def test_a_comparison_names_a_change_of_software_as_a_possible_cause() -> None:
    before, after = make(torch="2.12.0", pillow="13.0.0"), make(torch="2.13.0", pillow="13.0.0")
    assert list(_find_other_software([[before], [after]])) == [
        "Answers were made with other software, a possible cause of changes: torch 2.12.0 → 2.13.0"
    ]
    assert list(_find_other_software([[before], [before]])) == []
    # Answers of an earlier release do not say.
    assert list(_find_other_software([[make()], [after]])) == []


@pytest.fixture(scope="module")
def finished(llava_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("software")
    (folder / "own.jsonl").write_text('{"id": 1, "question": "what colour is it?", "harmful": true}\n')
    (folder / "spec.yaml").write_text(
        f"model: {{id: {llava_folder}, dtype: float32, device: cpu}}\n"
        "datasets: {own: {format: jsonl, path: own.jsonl}}\n"
        "anchors: {from: {}}\nconditions: [query]\ntarget_states: []\ninterventions: []\n"
        "generation: {max_new_tokens: 2}\n"
    )
    run_plainly(folder / "spec.yaml", folder / "store")
    return folder


def test_every_manifest_and_the_report_of_a_run_have_them(finished: Path) -> None:
    store = Store.open(finished / "store")
    manifests = list(store.manifests())
    assert {manifest.stage for manifest in manifests} >= {"ingest", "generate", "judge", "report"}
    assert all(manifest.provenance["software"] == dict(list_software()) for manifest in manifests)
    (report,) = (finished / "store" / "reports").glob("*/report.md")
    assert f"States and answers were made with cmrm {version('cmrm')}" in report.read_text().replace(
        "\n", " "
    )
    assert f"torch {version('torch')}" in report.read_text()
