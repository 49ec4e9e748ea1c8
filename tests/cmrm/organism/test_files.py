"""The data sets are in the published formats, large enough, and the same each time."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from cmrm.datasets import read_dataset, screen, split
from cmrm.organism import Organism, ensure_organism
from cmrm.organism.files import write_data
from cmrm.organism.questions import pairs
from cmrm.samples import Sample


@pytest.fixture(scope="module")
def organism(tmp_path_factory: pytest.TempPathFactory) -> Organism:
    return ensure_organism(tmp_path_factory.mktemp("organism"))


def read_jsonl(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


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
        "forbidden": read_dataset(
            "forbidden-questions",
            data.forbidden_questions,
            dataset="forbidden",
            pair_with=data.coco_captions,
        ),
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


def test_one_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (write_data(tmp_path / name, seed=3, share=0.02) for name in ("one", "two"))
    written = [sorted(files.folder.rglob("*.*")) for files in (one, two)]
    assert [path.read_bytes() for path in written[0]] == [path.read_bytes() for path in written[1]]


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

    monkeypatch.setattr("cmrm.organism.write_data", write_and_be_overtaken)
    assert ensure_organism(tmp_path).data.vlsafe.is_file()


def test_being_killed_half_way_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(folder: Path, *, seed: int) -> None:
        folder.mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("cmrm.organism.write_data", die)
        with pytest.raises(KeyboardInterrupt):
            ensure_organism(tmp_path)
    monkeypatch.setattr(
        "cmrm.organism.write_data", lambda folder, seed: write_data(folder, seed=seed, share=0.02)
    )
    assert ensure_organism(tmp_path).data.vlsafe.is_file()
