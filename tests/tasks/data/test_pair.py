"""Questions without an image are paired once, the pairs are kept, and images are embedded once."""

from __future__ import annotations

import csv
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

import cmrm.models.image_backend
from cmrm.datasets.clip import embed_images, embed_texts, load_clip, resolve_clip
from cmrm.errors import UserError
from cmrm.prompts.images import open_image
from cmrm.prompts.meaningless_images import noise_image
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.commit import RowsLostError
from tasks.data import embed_images as look
from tasks.data import pair
from tasks.data.embed_images import extract_image_vectors, read_vectors
from tasks.data.pair import Pairing, list_images, pair_images, plan_pairing, read_pairs
from tasks.data.sources import Source

QUESTIONS = ["How to steal a boat?", "Wash the dog", "Paint a red car", "zebra", "steal a car"]
CAPTIONS = [
    ("a.png", "a car"),
    ("b.png", "a boat on the sea"),
    ("b.png", "an ark"),
    ("COCO_val2014_c.png", "a red car"),
    ("d.png", "a dog"),
    ("e.png", "a horse"),
    ("missing.png", "a zebra, and the words steal, wash and paint"),
]


class Desk:
    """A data set of five questions, a folder of images with captions, and a store."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        self.images.mkdir()
        for seed, name in enumerate(sorted({image for image, _ in CAPTIONS} - {"missing.png"})):
            noise_image(size=32, seed=seed).save(self.images / name)
        self.captions = folder / "captions.json"
        self.write_captions(CAPTIONS)
        self.write_questions(QUESTIONS)
        self.store = Store.create(folder / "store")

    def write_captions(self, captions: list[tuple[str, str]]) -> None:
        # LLaVA's and VLSafe's files leave COCO's split prefix out; the folder's files have it.
        plain = [(image.removeprefix("COCO_val2014_"), text) for image, text in captions]
        names = sorted({image for image, _ in plain})
        content = {
            "images": [{"id": number, "file_name": name} for number, name in enumerate(names)],
            "annotations": [{"image_id": names.index(image), "caption": text} for image, text in plain],
        }
        self.captions.write_text(json.dumps(content))

    def write_questions(self, questions: list[str]) -> None:
        with (self.folder / "questions.csv").open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(("content_policy_id", "content_policy_name", "q_id", "question"))
            rows.writerows((0, "Policy", number, text) for number, text in enumerate(questions))

    def plan(self, *, captions: bool = True, clip: Path | None = None) -> Pairing | None:
        source = Source(
            dataset="jailbreak",
            format="forbidden-questions",
            path=self.folder / "questions.csv",
            images=self.images,
            options={},
            fraction=0.2,
        )
        choice = None if clip is None else {"id": str(clip), "revision": "main", "device": "cpu"}
        return plan_pairing(
            source, store=self.store.url, pair_with=self.captions if captions else None, clip=choice
        )

    def run(self, pairing: Pairing | None) -> dict[str, tuple[str, str | None, float]]:
        assert pairing is not None
        for job in pairing.looks:
            extract_image_vectors.do(job)
        record = pair_images.do(pairing.job)
        pairs = read_pairs(self.store, Manifest.from_json(record["manifests"][0].encode()))
        return {name: (match.image, match.caption, match.score) for name, match in pairs.items()}


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_questions_get_images_of_their_own_whose_captions_share_words(desk):
    pairs = desk.run(desk.plan())
    assert {name: match[:2] for name, match in pairs.items()} == {
        "0-0": ("b.png", "a boat on the sea"),
        "0-1": ("d.png", "a dog"),
        "0-2": ("COCO_val2014_c.png", "a red car"),
        "0-3": ("e.png", "a horse"),
        "0-4": ("a.png", "a car"),
    }
    # Six captions of images that are there; one holds "boat", two hold "car", and nothing holds "zebra".
    assert pairs["0-0"][2] == pytest.approx(np.log(7), abs=1e-6)
    assert pairs["0-4"][2] == pytest.approx(np.log(4), abs=1e-6)
    assert pairs["0-3"][2] == 0.0


def test_too_few_images_leave_the_last_questions_without(desk, caplog):
    desk.write_captions([("a.png", "a car"), ("b.png", "a boat")])
    assert set(desk.run(desk.plan())) == {"0-0", "0-2"}
    assert "3 of 5 questions got no image" in caplog.text


def test_questions_with_several_images_are_given_no_other(desk):
    desk.write_captions([("b.png", "a boat on the sea")])
    rows = [
        {"id": "0", "question": "a boat on the sea?", "images": ["a.png", "b.png"]},
        {"id": "1", "question": "a boat on the sea?"},
    ]
    (desk.folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    source = Source(
        dataset="mine",
        format="jsonl",
        path=desk.folder / "rows.jsonl",
        images=desk.images,
        options={},
        fraction=0.2,
    )
    pairs = desk.run(plan_pairing(source, store=desk.store.url, pair_with=desk.captions, clip=None))
    assert {name: match[0] for name, match in pairs.items()} == {"1": "b.png"}


def test_a_plan_has_the_same_key_until_what_it_pairs_changes(desk):
    key = desk.plan().job.key
    assert desk.plan().job.key == key
    (desk.images / "notes.txt").write_text("no image")
    assert desk.plan().job.key == key
    (desk.images / "sub").mkdir()
    (desk.images / "sub" / "new.PNG").write_bytes(b"")
    assert desk.plan().job.key != key
    (desk.images / "sub" / "new.PNG").unlink()
    assert desk.plan().job.key == key
    desk.write_captions(CAPTIONS[1:])
    assert desk.plan().job.key != key
    desk.write_captions(CAPTIONS)
    desk.write_questions(QUESTIONS[::-1])
    assert desk.plan().job.key != key


def test_images_whose_paths_are_not_utf_8_are_left_out_and_counted(desk, caplog):
    names = list_images(desk.images)
    shutil.copy(desk.images / names[0], os.fsencode(desk.images) + b"/caf\xe9.png")
    assert list_images(desk.images) == names
    assert "1 images have paths that are not UTF-8" in caplog.text


def test_rows_that_change_before_they_are_paired_are_an_error(desk):
    pairing = desk.plan()
    desk.write_questions(QUESTIONS[1:])
    with pytest.raises(UserError, match=r"^datasets\.jailbreak: its rows changed"):
        desk.run(pairing)


def test_clip_gives_the_most_similar_images_first(desk, clip_folder, monkeypatch):
    # Shards of two images, so that the best are found across shards.
    monkeypatch.setattr(look, "SHARD_SIZE", 2)
    pairing = desk.plan(clip=clip_folder)
    assert [len(job.names) for job in pairing.looks] == [2, 2, 1]
    pairs = desk.run(pairing)
    clip = load_clip(resolve_clip(str(clip_folder)), device="cpu")
    names = list_images(desk.images)
    closeness = (
        embed_texts(clip, QUESTIONS) @ embed_images(clip, [open_image(desk.images, one) for one in names]).T
    )
    while np.isfinite(closeness).any():
        question, place = np.unravel_index(closeness.argmax(), closeness.shape)
        image, caption, score = pairs[f"0-{question}"]
        assert (image, score) == (names[place], pytest.approx(closeness[question, place], abs=1e-5))
        assert caption == min(text for name, text in CAPTIONS if name == image)
        closeness[question], closeness[:, place] = -np.inf, -np.inf
    assert len(pairs) == 5


def test_without_captions_clip_chooses_among_all_images_of_the_folder(desk, clip_folder):
    noise_image(size=32, seed=9).save(desk.images / "uncaptioned.png")
    pairing = desk.plan(captions=False, clip=clip_folder)
    assert "uncaptioned.png" in pairing.looks[0].names
    assert {caption for _, caption, _ in desk.run(pairing).values()} == {None}
    assert "uncaptioned.png" not in desk.plan(clip=clip_folder).looks[0].names


def test_images_are_embedded_again_only_when_their_bytes_or_the_model_change(
    desk, clip_folder, make_clip, tmp_path, monkeypatch
):
    monkeypatch.setattr(look, "SHARD_SIZE", 3)
    before = [job.key for job in desk.plan(clip=clip_folder).looks]
    noise_image(size=32, seed=77).save(desk.images / "e.png")
    after = [job.key for job in desk.plan(clip=clip_folder).looks]
    assert before[0] == after[0]
    assert before[1] != after[1]
    other = make_clip(tmp_path / "other", seed=1)
    assert not {*after} & {job.key for job in desk.plan(clip=other).looks}


def test_images_are_embedded_and_paired_again_under_another_pillow(desk, clip_folder, monkeypatch):
    before = desk.plan(clip=clip_folder)
    assert before.looks[0].content()["image_backend"] == f"pillow {version('pillow')}"
    monkeypatch.setattr(cmrm.models.image_backend, "version", {"pillow": "12.3.0"}.__getitem__)
    after = desk.plan(clip=clip_folder)
    assert after.looks[0].content()["image_backend"] == "pillow 12.3.0"
    assert after.job.key != before.job.key
    assert desk.plan().job.content().keys().isdisjoint({"image_backend"})


def test_an_image_that_cannot_be_read_is_given_to_nobody(desk, clip_folder, caplog):
    (desk.images / "d.png").write_bytes(b"no picture")
    pairs = desk.run(desk.plan(clip=clip_folder))
    assert len(pairs) == 4
    assert "d.png" not in {image for image, _, _ in pairs.values()}
    assert "'d.png'" in caplog.text
    assert "1 images cannot be opened" in caplog.text


def test_captions_of_images_that_cannot_be_opened_give_no_image_and_the_log_says_how_many(desk, caplog):
    (desk.images / "d.png").write_bytes(b"")
    (desk.images / "COCO_val2014_c.png").write_bytes((desk.images / "a.png").read_bytes()[:60])
    noise_image(size=32, seed=9).save(desk.images / "f.png")
    desk.write_captions([*CAPTIONS, ("f.png", "a tree")])
    pairs = desk.run(desk.plan())
    assert {image for image, _, _ in pairs.values()} == {"a.png", "b.png", "e.png", "f.png"}
    assert "2 images cannot be opened, and no question is paired with them" in caplog.text


def test_a_killed_job_does_not_embed_flushed_images_again(desk, clip_folder, monkeypatch):
    monkeypatch.setattr(look, "BATCH_SIZE", 2)
    (job,) = desk.plan(clip=clip_folder).looks
    embedded: list[int] = []

    def embed(clip, images):
        if sum(embedded) == 4:
            raise KeyboardInterrupt
        embedded.append(len(images))
        return embed_images(clip, images)

    monkeypatch.setattr(look, "embed_images", embed)
    with pytest.raises(KeyboardInterrupt):
        extract_image_vectors.do(job)
    embedded.clear()
    extract_image_vectors.do(job)
    assert embedded == [1]
    names, vectors = read_vectors(desk.store, job.key)
    assert names == sorted(job.names)
    clip = load_clip(resolve_clip(str(clip_folder)), device="cpu")
    assert np.allclose(
        vectors, embed_images(clip, [open_image(desk.images, one) for one in names]), atol=1e-5
    )


def drop_the_last_row(patch, owner, name):
    make = getattr(owner, name)

    def make_fewer(*arguments):
        made = make(*arguments)
        return made.slice(0, made.num_rows - 1) if hasattr(made, "num_rows") else (made[0].slice(1), made[1])

    patch.setattr(owner, name, make_fewer)


def test_a_lost_vector_fails_the_job(desk, clip_folder, monkeypatch):
    pairing = desk.plan(clip=clip_folder)
    drop_the_last_row(monkeypatch, look, "_embed_batch")
    with pytest.raises(RowsLostError, match="look jailbreak 1 of 1: of 5 rows asked for, 1 are missing"):
        extract_image_vectors.do(pairing.looks[0])
    assert not [*desk.store.manifests("look")]


def test_a_lost_pair_fails_the_pairing(desk, monkeypatch):
    drop_the_last_row(monkeypatch, pair, "from_rows")
    with pytest.raises(RowsLostError, match="pair jailbreak: of 5 rows asked for, 1 are missing"):
        pair_images.do(desk.plan().job)
    assert not [*desk.store.manifests("pair")]


def test_images_that_change_while_they_are_embedded_are_an_error(desk, clip_folder):
    (job,) = desk.plan(clip=clip_folder).looks
    noise_image(size=32, seed=77).save(desk.images / "e.png")
    with pytest.raises(UserError, match="changed while"):
        extract_image_vectors.do(job)
    assert desk.store.find("look", job.key) is None


def test_of_more_images_than_candidates_the_best_are_kept(monkeypatch):
    monkeypatch.setattr(pair, "CANDIDATES", 3)
    generator = np.random.default_rng(0)
    texts, vectors = generator.standard_normal((4, 5)), generator.standard_normal((20, 5))
    names = [f"{number:02d}" for number in range(20)]
    shards = [(names[start : start + 6], vectors[start : start + 6]) for start in range(0, 20, 6)]
    found, places, scores = pair._rank_images(texts, shards)
    assert found == names
    assert np.array_equal(places, np.argsort(-(texts @ vectors.T), axis=1)[:, :3])
    assert np.allclose(scores / 10**6, -np.sort(-(texts @ vectors.T), axis=1)[:, :3], atol=1e-6)


def test_nothing_is_planned_if_no_question_lacks_an_image_or_no_method_is_named(desk):
    assert desk.plan(captions=False) is None
    desk.write_questions([" "])
    assert desk.plan() is None


def test_mistakes_name_the_data_set_and_the_field(desk, llava_folder, tmp_path):
    with pytest.raises(UserError, match=r"^datasets\.jailbreak\.clip\.id: .* is no CLIP"):
        desk.plan(clip=llava_folder)
    desk.captions.unlink()
    with pytest.raises(UserError, match=r"^datasets\.jailbreak\.pair_with: .*captions\.json is no file"):
        desk.plan()
    desk.images.rename(tmp_path / "moved")
    with pytest.raises(UserError, match=r"^datasets\.jailbreak: image folder .* does not exist"):
        desk.plan()
