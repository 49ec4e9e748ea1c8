"""An image on which the model itself fails is quarantined by every stage with its words, and costs no other row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModel

from storage.sql.database import connect
from tests.flows.shared_runs import run_plainly

MESSAGE = "upper bound and lower bound inconsistent with step sign"
FORWARD = CLIPVisionModel.forward


def is_magenta(pixels: torch.Tensor) -> torch.Tensor:
    """Which images of a batch are of one colour that has red and no green, as no other image of these tests."""
    red, green = pixels[:, 0].flatten(1), pixels[:, 1].flatten(1)
    return (red.amin(dim=1) > 1) & (green.amax(dim=1) < -1)


def fail_on(patch: pytest.MonkeyPatch, chosen: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let the vision tower fail on batches with an image that is chosen."""

    def forward(self: CLIPVisionModel, pixel_values: torch.Tensor, **more: Any) -> Any:
        if bool(chosen(pixel_values).any()):
            raise RuntimeError(MESSAGE)
        return FORWARD(self, pixel_values, **more)

    patch.setattr(CLIPVisionModel, "forward", forward)


@pytest.fixture(scope="module")
def folder(
    llava_folder: Path, tmp_path_factory: pytest.TempPathFactory, write_short_spec: Callable[..., Path]
) -> Path:
    """A spec whose data show one image in magenta, twice, and the store of a run in which nothing failed."""
    folder = tmp_path_factory.mktemp("magenta")
    spec = write_short_spec(
        folder / "data",
        llava_folder,
        interventions=[{"name": "CMRM", "alpha": 1.0}, {"name": "own", "level": "sample", "alpha": 0.5}],
        overhead={"samples": 64, "repeats": 1, "batch_size": 8},
        batch_size=8,
        judges=["refusal"],
    )
    Image.new("RGB", (32, 32), (255, 0, 255)).save(spec.parent / "images" / "magenta.png")
    with (spec.parent / "own.jsonl").open("a") as file:
        for number in range(6):
            row = {
                "id": f"M{number}",
                "question": f"what is seen in picture {number}?",
                "image": "magenta.png",
            }
            file.write(json.dumps(row) + "\n")
    run_plainly(spec, folder / "store")
    return folder


def read(store: Path, query: str) -> Counter[tuple[Any, ...]]:
    with connect(store) as sql:
        return Counter(sql.sql(query).fetchall())


def test_every_stage_quarantines_the_samples_and_all_others_come_out_as_if_nothing_had_failed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, is_magenta)
    run_plainly(folder / "data" / "spec.yaml", tmp_path / "store")

    states = "SELECT sample_id, condition, block FROM hidden_states"
    answers = "SELECT sample_id, condition, intervention, answer FROM responses"
    for query in (states, answers):
        calm, kept = read(folder / "store", query), read(tmp_path / "store", query)
        lost = calm - kept
        assert not kept - calm
        assert lost
        assert {row[0][0] for row in lost} == {"M"}
        assert {row[1] for row in lost} == {"image"}
    with connect(tmp_path / "store") as sql:
        rows = sql.sql("SELECT stage, sample_id, reason FROM quarantine").fetchall()
    targets = {sample for sample, *_ in read(folder / "store", answers) if sample.startswith("M")}
    assert {reason for _, _, reason in rows} == {f"this model fails on it: RuntimeError: {MESSAGE}"}
    # Plain, under CMRM, and under its own shift.
    assert Counter(stage for stage, *_ in rows if stage == "generate") == {"generate": 3 * len(targets)}
    assert {sample for stage, sample, _ in rows if stage == "embed"} == {f"M{number}" for number in range(6)}
    assert {sample for stage, sample, _ in rows if stage == "overhead"} == targets


def test_a_model_that_fails_on_every_image_ends_the_run_with_its_own_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_on(monkeypatch, lambda pixels: torch.ones(len(pixels), dtype=torch.bool))
    with pytest.raises(RuntimeError, match=MESSAGE):
        run_plainly(folder / "data" / "spec.yaml", tmp_path / "store")
