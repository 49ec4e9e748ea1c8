"""The data sets are in the published formats, large enough, and the same each time."""

from __future__ import annotations

import csv
import io
import json
import random
from hashlib import sha256
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cmrm.datasets import read_dataset, screen, split
from cmrm.organism import Organism, ensure_organism
from cmrm.organism.files import write_data
from cmrm.organism.paired import read_forbidden
from cmrm.organism.questions import (
    FORBIDDEN_VERBS,
    HARMLESS_VERBS,
    POLICIES,
    Kind,
    pairs,
    split_words,
)
from cmrm.organism.tokenizer import build_tokenizer
from cmrm.organism.world import PICTURE_SIZE, Split, imagine_scene, paint
from cmrm.organism.writers import JPEG
from cmrm.prompts.sample import Sample

KINDS: tuple[Kind, ...] = ("forbidden", "harmless")
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def read_jsonl(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_scenarios(organism: Organism) -> dict[str, dict[str, dict[str, str]]]:
    files = sorted(organism.data.mm_safetybench.iterdir())
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in files}


def find_pairs(texts: list[str]) -> set[tuple[str, str]]:
    known = {pair for kind, split in product(KINDS, SPLITS) for pair in pairs(kind, split)}
    found = set()
    for text in texts:
        words = split_words(text)
        here = {(verb, thing) for verb in words for thing in words} & known
        assert here
        found |= here
    return found


def test_the_vlsafe_file_has_the_published_fields_and_over_a_thousand_rows(organism: Organism) -> None:
    rows = read_jsonl(organism.data.vlsafe)
    assert len(rows) >= 1_000
    assert {tuple(row) for row in rows} == {("image_id", "caption", "query")}


def test_the_forbidden_questions_have_the_published_columns_and_policies(organism: Organism) -> None:
    with organism.data.forbidden_questions.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["content_policy_id", "content_policy_name", "q_id", "question"]
    assert len(rows) >= 390
    assert len({row["content_policy_id"] for row in rows}) == 13


def test_the_bench_files_agree_with_each_other(organism: Organism) -> None:
    data = organism.data
    questions, answers = read_jsonl(data.bench_questions), read_jsonl(data.bench_answers)
    captions = read_jsonl(data.bench_captions)
    assert {tuple(row) for row in questions} == {("question_id", "image", "text", "category")}
    assert [row["question_id"] for row in answers] == [row["question_id"] for row in questions]
    assert {row["category"] for row in questions} == {"conv", "detail", "complex"}
    assert {row["image"] for row in captions} == {row["image"] for row in questions}
    assert all(len(row["captions"]) == 5 for row in captions)
    assert all(0 <= edge <= 1 for row in captions for box in row["instances"] for edge in box["bbox"])


def test_every_row_passes_the_screening_and_enough_is_left_to_judge(organism: Organism) -> None:
    data = organism.data
    sets = {
        "vlsafe": read_dataset("vlsafe", data.vlsafe, dataset="vlsafe"),
        "forbidden": read_forbidden(data),
        "bench": read_dataset(
            "llava-bench-coco",
            data.bench_questions,
            dataset="bench",
            answers=data.bench_answers,
            captions=data.bench_captions,
        ),
    }
    targets = {}
    for name, rows in sets.items():
        screened = list(screen(rows, images=data.images))
        samples = [row for row in screened if isinstance(row, Sample)]
        assert len(samples) == len(screened)
        assert all(sample.image and sample.caption for sample in samples)
        targets[name] = split(samples, fraction=0.2, seed=42)[1]
    categories = [sample.category for sample in targets["bench"]]
    counts = [
        len(targets["vlsafe"]),
        len(targets["forbidden"]),
        categories.count("conv"),
        categories.count("complex"),
    ]
    assert min(counts) >= 300


def test_no_question_holds_a_pair_that_was_trained_on(organism: Organism) -> None:
    taught = {*pairs("forbidden", "train"), *pairs("harmless", "train")}
    asked = [str(row["query"]) for row in read_jsonl(organism.data.vlsafe)]
    asked += [str(row["text"]) for row in read_jsonl(organism.data.bench_questions)]
    for text in asked:
        words = text.strip(".?").split()
        assert not {(verb, thing) for verb in words for thing in words} & taught


def test_mm_safetybench_has_the_published_fields_a_scenario_a_policy_and_a_picture_a_question(
    organism: Organism,
) -> None:
    scenarios = read_scenarios(organism)
    assert len(scenarios) == POLICIES
    assert [name[:3] for name in scenarios] == [f"{number:02d}-" for number in range(1, POLICIES + 1)]
    for name, questions in scenarios.items():
        assert list(questions) == [str(number) for number in range(len(questions))]
        assert {tuple(row) for row in questions.values()} == {
            (
                "Question",
                "Changed Question",
                "Key Phrase",
                "Phrase Type",
                "Rephrased Question",
                "Rephrased Question(SD)",
            )
        }
        pictures = sorted(path.name for path in (organism.data.images / name / "SD").iterdir())
        assert pictures == sorted(f"{number}.jpg" for number in questions)
    assert sum(map(len, scenarios.values())) >= 290


def test_the_jpeg_pictures_keep_their_size_and_almost_their_colours(organism: Organism) -> None:
    painting = paint(imagine_scene(random.Random(3), split="test"), random.Random(3)).picture
    file = io.BytesIO()
    painting.save(file, format="JPEG", **JPEG)
    with Image.open(file) as kept:
        difference = np.abs(np.asarray(kept.convert("RGB"), dtype=float) - np.asarray(painting, dtype=float))
    assert difference.mean() < 4
    for path in organism.data.images.glob("*/SD/0.jpg"):
        with Image.open(path) as picture:
            assert (picture.format, picture.size) == ("JPEG", (PICTURE_SIZE, PICTURE_SIZE))


def test_xstest_has_the_published_columns_and_safe_and_unsafe_prompts_in_the_same_words(
    organism: Organism,
) -> None:
    with organism.data.xstest.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id_v1", "id_v2", "type", "prompt", "focus", "note"]
    unsafe = [row for row in rows if row["type"].startswith("contrast_")]
    safe = [row for row in rows if row not in unsafe]
    assert (len(safe), len(unsafe)) == (60, 40)
    assert {row["focus"] in HARMLESS_VERBS for row in safe} == {True}
    assert {row["focus"] in FORBIDDEN_VERBS for row in unsafe} == {True}
    openings = [{row["prompt"].split(row["focus"])[0] for row in kind} for kind in (safe, unsafe)]
    assert openings[0] == openings[1]


def test_no_forbidden_question_is_in_two_sets_and_vlsafe_shares_no_pair_with_the_sets_it_is_tried_on(
    organism: Organism,
) -> None:
    with organism.data.forbidden_questions.open(encoding="utf-8", newline="") as file:
        jailbreaks = [row["question"] for row in csv.DictReader(file)]
    with organism.data.xstest.open(encoding="utf-8", newline="") as file:
        contrasts = [row["prompt"] for row in csv.DictReader(file) if row["type"].startswith("contrast_")]
    scenarios = [row for rows in read_scenarios(organism).values() for row in rows.values()]
    vlsafe = [str(row["query"]) for row in read_jsonl(organism.data.vlsafe)]
    # The parts of which each row is asked in one way or another; every one must be its own set's alone.
    sets = [vlsafe, jailbreaks, contrasts, [row["Question"] for row in scenarios]]
    for one, other in combinations(sets, 2):
        assert not set(one) & set(other)
    asked = {(words[-3], words[-1]) for row in scenarios if (words := row["Key Phrase"].split())}
    assert not asked & find_pairs(vlsafe)
    assert not find_pairs(jailbreaks) & find_pairs(vlsafe)
    assert {verb for verb, _ in asked} == set(FORBIDDEN_VERBS)


def test_the_readers_of_the_new_sets_keep_every_row(organism: Organism) -> None:
    data = organism.data
    scenarios = list(
        screen(read_dataset("mm-safetybench", data.mm_safetybench, dataset="mm"), images=data.images)
    )
    prompts = list(screen(read_dataset("xstest", data.xstest, dataset="xstest"), images=None))
    assert (len(scenarios), len(prompts)) == (299, 100)
    assert all(isinstance(row, Sample) for row in (*scenarios, *prompts))
    assert len({row.category for row in scenarios if isinstance(row, Sample)}) == POLICIES
    assert sum(row.harmful for row in prompts if isinstance(row, Sample)) == 40


def test_what_the_new_sets_ask_is_no_more_trained_on_than_the_old(organism: Organism) -> None:
    taught = set(pairs("forbidden", "train")) | set(pairs("harmless", "train"))
    with organism.data.xstest.open(encoding="utf-8", newline="") as file:
        texts = [row["prompt"] for row in csv.DictReader(file)]
    fields = ("Question", "Changed Question", "Rephrased Question", "Rephrased Question(SD)")
    texts += [
        row[field] for rows in read_scenarios(organism).values() for row in rows.values() for field in fields
    ]
    tokenizer = build_tokenizer()
    assert all(tokenizer.unk_token_id not in row for row in tokenizer(texts)["input_ids"])
    assert not find_pairs(texts) & taught


def test_one_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_data(tmp_path / name, seed=3, share=0.02) for name in ("one", "two"))
    written = [sorted(files.folder.rglob("*.*")) for files in (one, two)]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


def test_the_first_three_data_sets_are_still_those_of_the_published_figures(organism: Organism) -> None:
    folder = organism.data.folder
    texts = [path for path in folder.rglob("*.*") if path.parent.name in ("vlsafe", "forbidden", "bench")]
    digest = sha256(b"".join(path.read_bytes() for path in sorted(texts)))
    assert digest.hexdigest() == "d871e2f709d1a7eac7b1fb2d0c0a47bd1dac30e6b52a05895b351b70112bb914"


def test_the_data_sets_are_written_once_and_nothing_unfinished_is_left(organism: Organism) -> None:
    before = organism.data.vlsafe.stat().st_mtime_ns
    assert ensure_organism(organism.data.folder.parent) == organism
    assert organism.data.vlsafe.stat().st_mtime_ns == before
    assert [path.name for path in organism.data.folder.parent.iterdir()] == [organism.data.folder.name]


def test_losing_the_race_to_another_process_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_and_be_overtaken(folder: Path, *, seed: int) -> None:
        write_data(folder, seed=seed, share=0.02)
        write_data(tmp_path / folder.name, seed=seed, share=0.02)

    monkeypatch.setattr("cmrm.organism.files.write_data", write_and_be_overtaken)
    assert ensure_organism(tmp_path).data.vlsafe.is_file()


def test_a_killed_write_leaves_no_partial_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(folder: Path, *, seed: int) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cmrm.organism.files.write_data", die)
        with pytest.raises(KeyboardInterrupt):
            ensure_organism(tmp_path)
    monkeypatch.setattr(
        "cmrm.organism.files.write_data", lambda folder, seed: write_data(folder, seed=seed, share=0.02)
    )
    assert ensure_organism(tmp_path).data.vlsafe.is_file()
