"""The image backend in a run: what is made again when it changes, what is said of it, and what it may not be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image

import cmrm.models.image_backend
from flows.cli import main
from flows.plan.plan import make_plan
from flows.spec.spec import read_spec
from storage.store import Store
from tasks.core.cache_miss import Reasons
from tasks.core.models import ModelUse
from tests.flows.shared_runs import run_plainly

PILLOW = f"pillow {version('pillow')}"


@pytest.fixture
def folder(llava_folder: Path, tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (50, 30), (9, 200, 3)).save(tmp_path / "images" / "1.png")
    row = {"id": 1, "question": "what colour is it?", "image": "1.png", "harmful": True}
    (tmp_path / "own.jsonl").write_text(f"{json.dumps(row)}\n")
    (tmp_path / "spec.yaml").write_text(
        f"model: {{id: {llava_folder}, dtype: float32, device: cpu}}\n"
        "datasets: {own: {format: jsonl, path: own.jsonl, images: images}}\n"
        "anchors: {from: {}}\nconditions: [query, image]\ninterventions: []\ngeneration: {max_new_tokens: 2}\n"
    )
    return tmp_path


def pretend_pillow(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cmrm.models.image_backend, "version", {"pillow": "12.3.0"}.__getitem__)


def pretend_earlier_release(patch: pytest.MonkeyPatch) -> None:
    """Keys as they were before the backend was in any."""
    patch.setattr(ModelUse, "content_with_images", ModelUse.content)


def list_keys(store: Path, stage: str) -> dict[str, set[str]]:
    """The keys of a stage's manifests by condition."""
    found: dict[str, set[str]] = {}
    for manifest in Store.open(store).manifests(stage):
        found.setdefault(manifest.content["condition"], set()).add(manifest.key)
    return found


@pytest.mark.parametrize(
    ("pretend", "earlier"), [(pretend_pillow, "pillow 12.3.0"), (pretend_earlier_release, "none recorded")]
)
def test_what_was_made_by_another_backend_is_made_again_and_the_log_says_why(
    folder: Path, pretend: Callable[[pytest.MonkeyPatch], None], earlier: str
) -> None:
    spec, store = folder / "spec.yaml", folder / "store"
    with pytest.MonkeyPatch.context() as patch:
        pretend(patch)
        run_plainly(spec, store)
    before = {stage: list_keys(store, stage) for stage in ("embed", "generate")}
    reasons = {stage: Reasons(Store.open(store), stage) for stage in before}
    plan = make_plan(read_spec(spec), store=Store.open(store))
    samples = {one.content["dataset"]: one for one in Store.open(store).manifests("ingest")}
    (model,) = plan.by_model()
    jobs = [*model.embed_jobs(samples), *model.generate_jobs(samples, [])]
    missing = [job for job in jobs if Store.open(store).find(job.stage, job.key) is None]
    assert [job.slice.condition for job in missing] == ["image", "image"]
    for job in missing:
        assert reasons[job.stage].explain(job) == f"image backend {earlier} → {PILLOW}"
    run_plainly(spec, store)
    for stage, keys in before.items():
        after = list_keys(store, stage)
        assert after["query"] == keys["query"]
        assert len(after["image"] - keys["image"]) == 1


def test_manifest_record_and_report_name_it(folder: Path) -> None:
    store = folder / "store"
    result = run_plainly(folder / "spec.yaml", store)
    backends = {
        (one.stage, one.content["condition"]): one.content.get("image_backend")
        for stage in ("embed", "generate")
        for one in Store.open(store).manifests(stage)
    }
    assert backends == {
        (stage, condition): PILLOW if condition == "image" else None
        for stage in ("embed", "generate")
        for condition in ("query", "image")
    }
    (record,) = Store.open(store).runs()
    assert [model["image_backend"] for model in record["models"]] == [PILLOW]
    assert result.summary.software["image backend"] == [PILLOW]
    (report,) = (store / "reports").glob("*/report.md")
    assert f"images by {PILLOW}." in " ".join(report.read_text().split())


def test_a_backend_that_a_type_lacks_costs_a_line_and_status_2_before_any_work(
    folder: Path, llava_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = Path(shutil.copytree(llava_folder, folder / "model"))
    settings = model / "processor_config.json"
    content = json.loads(settings.read_text())
    content["image_processor"]["image_processor_type"] = "Llama4ImageProcessor"
    settings.write_text(json.dumps(content))
    spec = folder / "spec.yaml"
    spec.write_text(spec.read_text().replace(f"id: {llava_folder}", "id: model, image_backend: pillow"))
    with pytest.raises(SystemExit) as left:
        main(["run", str(spec), "--store", str(folder / "store")])
    assert left.value.code == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "has no pillow backend in transformers, only torchvision; set image_backend: torchvision." in said
    assert "Traceback" not in said
    assert not [*Store.open(folder / "store").manifests("ingest")]
