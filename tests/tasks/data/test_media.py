"""Ingest of samples with several images, videos and sounds: rows, digests and keys; keys of others as before."""

from __future__ import annotations

import hashlib
import io
import json
import wave
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cmrm.prompts.conditions import CONDITIONS, TEXT_ONLY
from cmrm.prompts.media import Medium
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.data.ingest import ingest, plan_ingest
from tasks.data.sources import Source
from tasks.shards.samples import iterate_samples, slice_samples, slice_to_caption


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    (folder / "frames").mkdir(parents=True)
    # Written by hand, so that no encoder's version matters.
    (folder / "a.ppm").write_bytes(b"P6 2 1 255\n" + bytes(range(6)))
    (folder / "b.ppm").write_bytes(b"P6 1 1 255\n" + bytes(3))
    for number in range(3):
        (folder / "frames" / f"{number}.ppm").write_bytes(b"P6 1 1 255\n" + bytes([number] * 3))
    first, *others = (Image.new("RGB", (8, 6), (20 * number,) * 3) for number in range(10))
    first.save(folder / "clip.gif", save_all=True, append_images=others, duration=100)
    with wave.open(str(folder / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8000)
        file.writeframes(bytes(8000))
    return folder


@pytest.fixture
def take_in(tmp_path, images):
    """Ingest rows of a JSONL file; return the store, the job and its manifest."""
    store = Store.create(tmp_path / "store")

    def do(rows, **options):
        path = tmp_path / "mine.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        source = Source(
            dataset="mine", format="jsonl", path=path, images=images, options=options, fraction=0.5
        )
        (job,) = plan_ingest([source], store=store, seed=0, pairs={})
        record = ingest.do(job)
        return store, job, Manifest.from_json(record["manifests"][0].encode())

    return do


def list_slices(store, job, condition, split="target"):
    return [(one.rows, one.digest[:16]) for one in slice_samples(store.url, job.key, split, condition, 4)]


def test_samples_with_one_image_or_none_have_the_keys_that_they_had_before_there_were_media(take_in):
    rows = [
        {
            "id": number,
            "question": f"What is {number}?",
            "harmful": number % 2 == 0,
            **({"image": "ab"[number % 2] + ".ppm"} if number < 6 else {}),
            **({"caption": f"a square {number}"} if number % 3 == 0 else {}),
        }
        for number in range(9)
    ]
    store, job, _ = take_in(rows)
    # Computed by the release before.
    assert job.digest == "395e28e1760aa73d6849645d4d903d3e5098504818ea4c436ed4515278ef2dde"
    for condition in CONDITIONS:
        expected = {
            "caption": [(1, "10ee4e47b491a634")],
            "image": [(3, "5f77dc0f2db0cc0e")],
        }.get(condition, [(4, "45ee38b502dd736a")])
        assert list_slices(store, job, condition) == expected, condition
    uncaptioned = slice_to_caption(store.url, job.key, "target", "uncaptioned", 4)
    assert [one.digest[:16] for one in uncaptioned] == ["f518764a48c68f9a"]
    listed = [{**row, "images": [row.pop("image")]} if "image" in row else row for row in map(dict, rows)]
    assert take_in(listed)[1].key == job.key


def test_media_are_stored_with_digests_frames_and_seconds(take_in, images):
    rows = [
        {"id": 1, "question": "Which?", "images": ["a.ppm", "b.ppm"]},
        {"id": 2, "question": "What?", "video": "clip.gif", "audio": "tone.wav"},
        {"id": 3, "question": "Why?", "video": "frames"},
        {"id": 4, "question": "How?", "image": "a.ppm"},
    ]
    store, _, manifest = take_in(rows, frames=4)
    (path,) = (one for one in Path(store.url).rglob("*.parquet") if one.parts[-2] == "samples")
    sql = f"SELECT sample_id, media FROM '{path}' ORDER BY sample_id"
    found = dict(duckdb.sql(sql).fetchall())
    assert found["4"] is None
    assert [(one["kind"], one["name"], one["frames"], one["seconds"]) for one in found["1"]] == [
        ("image", "a.ppm", None, None),
        ("image", "b.ppm", None, None),
    ]
    assert [(one["kind"], one["frames"], one["seconds"]) for one in found["2"]] == [
        ("video", 4, pytest.approx(1.0)),
        ("audio", None, pytest.approx(0.5)),
    ]
    assert [(one["kind"], one["frames"], one["seconds"]) for one in found["3"]] == [("video", 3, 3.0)]
    assert found["2"][0]["digest"] == hashlib.sha256((images / "clip.gif").read_bytes()).hexdigest()
    stored = [one for split in ("anchor", "target") for one in iterate_samples(store, manifest, split)]
    media = {one.sample.id: one.sample.media for one in stored}
    assert media["2"] == (
        Medium(kind="video", name="clip.gif", frames=4),
        Medium(kind="audio", name="tone.wav"),
    )
    assert media["4"] == ()


def test_what_is_shown_of_media_is_in_the_key_of_every_condition_with_media(take_in, images):
    rows = [{"id": number, "question": f"What is {number}?", "video": "frames"} for number in range(4)]

    def digest_all(**options):
        store, job, _ = take_in(rows, **options)
        return {condition: list_slices(store, job, condition) for condition in CONDITIONS}

    plain = digest_all()
    assert plain["image"] == plain["blank"] == plain["gap"]
    assert plain["query"] != plain["blank"]
    assert digest_all(frames=99) == plain
    fewer = digest_all(frames=2)
    (images / "frames" / "1.ppm").write_bytes(b"P6 1 1 255\n" + bytes([9] * 3))
    repainted = digest_all()
    for condition in CONDITIONS:
        changed = condition not in TEXT_ONLY
        assert (fewer[condition] != plain[condition]) is changed
        assert (repainted[condition] != plain[condition]) is changed


def test_a_damaged_medium_costs_its_row_and_no_other(take_in, images):
    (images / "cut.gif").write_bytes((images / "clip.gif").read_bytes()[:150])
    _, _, manifest = take_in(
        [
            {"id": 1, "question": "What?", "video": "cut.gif"},
            {"id": 2, "question": "Which?", "images": ["a.ppm", "b.ppm"]},
        ]
    )
    assert {file.path.partition("/")[0]: file.rows for file in manifest.files} == {
        "samples": 1,
        "quarantine": 1,
    }


def test_samples_of_a_store_from_before_there_were_media_are_read(take_in, tmp_path):
    store, _, manifest = take_in([{"id": 1, "question": "What?", "image": "a.ppm"}])
    (path,) = (store.local_path(file.path) for file in manifest.files if file.path.startswith("samples"))
    sink = io.BytesIO()
    pq.write_table(pq.read_table(path).drop_columns(["media", "twin"]), sink)
    old = Store.create(tmp_path / "old")
    made = old.commit("ingest", "0" * 64, {f"samples/{'0' * 64}.parquet": sink.getvalue()})
    (stored,) = (one for split in ("anchor", "target") for one in iterate_samples(old, made, split))
    assert (stored.sample.image, stored.sample.media, stored.media_digests) == ("a.ppm", (), ())
