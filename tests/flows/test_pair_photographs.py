"""Questions are paired by CLIP with a folder of photographs as people have them, some damaged, some in odd modes."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from cmrm.datasets.pairing import Match
from cmrm.prompts.images import digest_pixels, open_image
from flows.plan.plan import make_plan
from flows.spec.spec import read_spec
from storage.records.manifest import Manifest
from storage.sql.database import connect
from storage.store import Store
from tasks.data import embed_images as stage
from tasks.data.embed_images import extract_image_vectors
from tasks.data.ingest import ingest
from tasks.data.pair import pair_images, read_pairs
from tests.photographs import SUBJECTS, Photographs, write_captions, write_photographs

COUNT = 60
VERBS = ("Draw", "Steal", "Wash", "Sell")
QUESTIONS = [f"{verb} {what}" for verb in VERBS for what in sorted(SUBJECTS.values())]


def write_paired_spec(folder: Path, photographs: Photographs, *, model: Path, clip: Path) -> Path:
    """Write a spec whose questions are to be given images of the photographs' folder."""
    write_captions(folder / "captions.json", photographs.captions)
    with (folder / "questions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("id", "question"))
        rows.writerows(enumerate(QUESTIONS))
    mine = {
        "format": "csv",
        "path": "questions.csv",
        "images": str(photographs.folder),
        "pair_with": "captions.json",
        "clip": {"id": str(clip), "device": "cpu"},
    }
    spec = {
        "model": {"id": str(model)},
        "datasets": {"mine": mine},
        "anchors": {"from": {"mine": 0.2}},
    }
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec))
    return folder / "spec.yaml"


def make_pairs(spec: Path, store: Path) -> tuple[dict[str, Match], Manifest]:
    """Do the jobs of a run as far as its samples have images: embed the images, pair, ingest."""
    opened = Store.create(store)
    plan = make_plan(read_spec(spec), store=opened)
    (pairing,) = plan.pairings()
    for job in pairing.looks:
        if opened.find(job.stage, job.key) is None:
            extract_image_vectors.do(job)
    if (manifest := opened.find(pairing.job.stage, pairing.job.key)) is None:
        record = pair_images.do(pairing.job)
        manifest = Manifest.from_json(record["manifests"][0].encode())
    for ingest_job in plan.ingest_jobs({"mine": manifest}):
        if opened.find(ingest_job.stage, ingest_job.key) is None:
            ingest.do(ingest_job)
    return read_pairs(opened, manifest), manifest


def name_images(pairs: dict[str, Match]) -> dict[str, str]:
    return {name: match.image for name, match in pairs.items()}


def open_plainly(path: Path) -> Image.Image:
    with Image.open(path) as image:
        if image.mode.startswith("I;16"):
            return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
        return image.convert("RGB")


def pair_by_transformers(photographs: Photographs, clip: Path) -> dict[str, str]:
    """The best pair of all first, then the best of the rest, by transformers' own CLIP."""
    names = sorted(set(photographs.captions) - set(photographs.damaged))
    images = [open_plainly(photographs.folder / name) for name in names]
    pixels = CLIPImageProcessorPil.from_pretrained(clip)(images=images, return_tensors="pt")
    texts = CLIPTokenizer.from_pretrained(clip)(QUESTIONS, padding=True, return_tensors="pt")
    with torch.inference_mode():
        found = CLIPModel.from_pretrained(clip)(**pixels, **texts)
    scores = (found.text_embeds @ found.image_embeds.T).double().numpy()
    chosen: dict[str, str] = {}
    for place in np.argsort(-scores, axis=None, kind="stable"):
        question, image = divmod(int(place), len(names))
        if str(question) not in chosen and names[image] not in chosen.values():
            chosen[str(question)] = names[image]
    return chosen


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Photographs:
    return write_photographs(tmp_path_factory.mktemp("photographs") / "images", COUNT)


@pytest.fixture
def spec(photographs: Photographs, llava_folder: Path, clip_folder: Path, tmp_path: Path) -> Path:
    return write_paired_spec(tmp_path, photographs, model=llava_folder, clip=clip_folder)


def test_the_photographs_are_distinct_and_as_many_as_asked_for_can_be_opened(
    photographs: Photographs,
) -> None:
    readable = [name for name in photographs.captions if name not in photographs.damaged]
    assert len(readable) == COUNT
    assert len({digest_pixels(open_image(photographs.folder, name)) for name in readable}) == COUNT
    assert len(photographs.damaged) == 3


def test_the_pairs_are_those_of_transformers_each_image_once_and_none_that_cannot_be_opened(
    photographs: Photographs, spec: Path, clip_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="cmrm.tasks"):
        pairs, manifest = make_pairs(spec, tmp_path / "store")
    given = name_images(pairs)
    assert given == pair_by_transformers(photographs, clip_folder)
    assert len(set(given.values())) == len(QUESTIONS)
    assert set(given.values()).isdisjoint(photographs.damaged)
    assert all(match.caption == photographs.captions[match.image] for match in pairs.values())
    assert manifest.provenance["unreadable"] == list(photographs.damaged)
    said = "mine: 3 images cannot be opened, and no question is paired with them (first damaged-0.jpg)"
    assert said in caplog.text
    with connect(tmp_path / "store") as sql:
        assert dict(sql.sql("SELECT sample_id, image FROM samples").fetchall()) == given
        assert sql.sql("SELECT count(*) FROM quarantine").fetchall() == [(0,)]


def test_the_pairs_are_the_same_for_any_batch_and_after_a_kill(
    photographs: Photographs, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs, manifest = make_pairs(spec, tmp_path / "plain")
    embed = stage.embed_images
    for size in (5, 7):
        monkeypatch.setattr(stage, "BATCH_SIZE", size)
        again, _ = make_pairs(spec, tmp_path / f"by-{size}")
        assert name_images(again) == name_images(pairs)

    embedded: list[int] = []

    def die_in_the_fourth_batch(clip: Any, images: list[Any]) -> Any:
        if len(embedded) == 3:
            raise KeyboardInterrupt
        embedded.append(len(images))
        return embed(clip, images)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "embed_images", die_in_the_fourth_batch)
        with pytest.raises(KeyboardInterrupt):
            make_pairs(spec, tmp_path / "killed")
    again, resumed = make_pairs(spec, tmp_path / "killed")
    assert name_images(again) == name_images(pairs)
    assert resumed.key == manifest.key
    assert resumed.provenance["unreadable"] == list(photographs.damaged)
    # Given once more, nothing is embedded or paired.
    monkeypatch.setattr(stage, "embed_images", None)
    assert make_pairs(spec, tmp_path / "killed") == (again, resumed)
