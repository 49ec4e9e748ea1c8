"""What ingest keeps of rows that were read otherwise than they stand, and what that does to its key."""

from __future__ import annotations

import dataclasses
import json

import pytest
from PIL import Image

from cmrm.datasets.pairing import Match
from cmrm.errors import UserError
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from tasks.data.ingest import ingest, plan_ingest
from tasks.data.sources import Source


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "images" / "Sub").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "Sub" / "a.PNG")
    store = Store.create(tmp_path / "store")

    def plan_rows(*rows, **options):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        source = Source(
            dataset="mine",
            format="jsonl",
            path=path,
            images=tmp_path / "images",
            options=options,
            fraction=0.5,
        )
        (job,) = plan_ingest([source], store=store, seed=0, pairs={})
        return store, job

    return plan_rows


def test_a_marker_that_was_taken_out_is_stored_with_the_question(plan):
    store, job = plan(
        {"id": 1, "question": "<image>\nWhat?", "image": "Sub/a.PNG"}, {"id": 2, "question": "Why?"}
    )
    record = ingest.do(job)
    manifest = Manifest.from_json(record["manifests"][0].encode())
    rows = read_rows(store, manifest, "samples").select(["sample_id", "question", "removed"]).to_pylist()
    assert sorted(map(tuple, map(dict.values, rows))) == [("1", "What?", "<image>"), ("2", "Why?", None)]


def test_images_that_no_row_names_are_a_mistake_that_names_the_column(plan):
    with pytest.raises(
        UserError, match=r"datasets\.mine: images is given, and no row names one in the column 'image'"
    ):
        plan({"id": 1, "question": "What?", "image_path": "Sub/a.PNG"})
    # One of many is enough, though a limit leaves it out.
    rows = [{"id": number, "question": f"What is {number}?"} for number in range(9)]
    _, job = plan(*rows, {"id": 9, "question": "What?", "image": "Sub/a.PNG"})
    few = dataclasses.replace(job.source, limit=1)
    assert len(list(few.read({}))) == 1
    # Before pairing there is none.
    assert len(list(dataclasses.replace(few, limit=None).read(None))) == 10


def test_the_marker_goes_where_pairing_gives_the_image(plan):
    rows = [{"id": 1, "question": "What is <image> this?"}, {"id": 2, "question": "<image> or <image>?"}]
    _, job = plan(*rows, {"id": 3, "question": "Why?", "image": "Sub/a.PNG"})
    match = Match(image="Sub/a.PNG", caption="a square", score=1.0)
    paired, lost, _ = job.source.read({"1": match, "2": match})
    assert (paired.question, paired.removed, paired.image) == ("What is this?", "<image>", "Sub/a.PNG")
    assert "2 times" in lost.reason


def test_the_key_is_of_what_was_read_and_of_the_images_that_were_found(plan, tmp_path):
    row = {"id": 1, "question": "What?", "image": "Sub/a.PNG"}
    _, plain = plan(row)
    _, spelled = plan({**row, "image": "sub\\a.png"})
    _, marked = plan({**row, "question": "<image>\nWhat?"})
    _, mapped = plan({**row, "label": "bad"}, harmful={"column": "label", "true": ["bad"]})
    assert mapped.key == plain.key
    assert len({plain.key, spelled.key, marked.key}) == 3
    Image.new("RGB", (9, 9)).save(tmp_path / "images" / "Sub" / "a.PNG")
    _, repainted = plan({**row, "image": "sub\\a.png"})
    assert repainted.key != spelled.key


def test_a_limit_draws_twins_together(plan):
    rows = [
        {
            "id": f"{number}{side}",
            "question": f"{side} {number}?",
            "harmful": side == "bad",
            "twin": str(number),
            "image": "Sub/a.PNG",
        }
        for side in ("bad", "good")
        for number in range(40)
    ]
    _, job = plan(*rows)
    kept = [sample.id for sample in dataclasses.replace(job.source, limit=20).read({})]
    assert len(kept) == 20
    assert len({one.removesuffix("bad").removesuffix("good") for one in kept}) == 10
