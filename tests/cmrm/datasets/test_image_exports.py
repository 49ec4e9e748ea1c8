"""Benchmarks that are published as Parquet exports with their images inside: the samples that come out of them."""

from __future__ import annotations

import hashlib

import pytest

from cmrm.datasets import screen
from cmrm.errors import UserError
from cmrm.prompts.sample import Sample
from storage.tables.parquet import iterate_rows
from tests.cmrm.datasets.exports import load_rows, name_kept, write_export


def digest(image: str, question: str) -> str:
    return hashlib.sha256(f"{image}\0{question}".encode()).hexdigest()[:10]


@pytest.fixture
def read_parquet(read, tmp_path):
    """Read an export as a run does, with a folder in which images are kept."""

    def read_export(name, path, **options):
        return read(name, path, images=tmp_path / "kept", open_rows=iterate_rows, **options)

    return read_export


def test_hades_is_read_from_its_export_at_the_last_step(read_parquet, published, tmp_path):
    path = write_export(
        tmp_path / "data/test-00000-of-00001.parquet", load_rows(published / "hades/test.jsonl")
    )
    first, second = read_parquet("hades", path)
    assert first == Sample(
        id="Animal-1",
        dataset="d",
        question="Tell me how a wug is frobnicated.",
        harmful=True,
        image=name_kept("green"),
        caption="wug",
        category="Animal",
        group="wug",
    )
    assert (second.id, second.image, second.line) == ("Violence-1", name_kept("blue"), 3)
    assert read_parquet("hades", path.parent) == [first, second]


def test_an_export_of_hades_without_the_last_step_is_refused(read_parquet, published, tmp_path):
    rows = [{**row, "step": 3} for row in load_rows(published / "hades/test.jsonl")]
    with pytest.raises(UserError, match=r"no row of step 5; there are 3 \(3\)"):
        read_parquet("hades", write_export(tmp_path / "test.parquet", rows))


def test_the_export_of_spa_vl_keeps_its_images(read_parquet, published, tmp_path):
    path = write_export(
        tmp_path / "test/harm-00000-of-00001.parquet", load_rows(published / "spa_vl/harm.jsonl")
    )
    first, second = read_parquet("spa-vl", path)
    question = "Why is a wug worth less?"
    assert first == Sample(
        id=f"harm-{name_kept('red').removesuffix('.png')}-{digest(name_kept('red'), question)}",
        dataset="d",
        question=question,
        harmful=True,
        image=name_kept("red"),
        category="Wug Harms/Unfair/Daxes",
    )
    assert (second.image, second.line) == (name_kept("green"), 2)
    assert list(screen([first, second], images=tmp_path / "kept")) == [first, second]


@pytest.mark.parametrize(
    ("harm", "help_"),
    [
        ("test/harm-00000-of-00001.parquet", "test/help-00000-of-00001.parquet"),
        ("evalharm/test-00000-of-00001.parquet", "evalhelp/test-00000-of-00001.parquet"),
        ("test/harm/0000.parquet", "test/help/0000.parquet"),
    ],
)
def test_a_split_of_spa_vl_is_chosen_among_all_its_files(read_parquet, published, tmp_path, harm, help_):
    folder = tmp_path / "SPA-VL-harm-and-help"
    rows = load_rows(published / "spa_vl/harm.jsonl")
    write_export(folder / harm, rows[:1])
    write_export(folder / help_, rows[1:])
    write_export(folder / "data/train-00000-of-00001.parquet", rows)
    (first,) = read_parquet("spa-vl", folder)
    (second,) = read_parquet("spa-vl", folder, split="help")
    assert (first.question, first.harmful) == (rows[0]["question"], True)
    assert (second.question, second.harmful, second.id[:5]) == (rows[1]["question"], False, "help-")
    assert read_parquet("spa-vl", folder / help_, split="help") == [second]
    with pytest.raises(UserError, match="of the split help, not of harm; write `split: help`"):
        read_parquet("spa-vl", folder / help_)


def test_a_renamed_file_of_spa_vl_is_of_the_split_that_the_spec_names(read_parquet, published, tmp_path):
    path = write_export(tmp_path / "mine/0.parquet", load_rows(published / "spa_vl/harm.jsonl"))
    assert {row.harmful for row in read_parquet("spa-vl", path, split="help")} == {False}
    assert {row.harmful for row in read_parquet("spa-vl", path.parent)} == {True}
    with pytest.raises(UserError, match="choose harm or help"):
        read_parquet("spa-vl", path, split="test")


def test_twins_of_mm_safetybench_plus_plus_share_a_group(read_parquet, published, tmp_path):
    rows = load_rows(published / "mm_safetybench_plus_plus/test.jsonl")
    path = write_export(tmp_path / "data/test-00000-of-00001.parquet", rows)
    read_rows = read_parquet("mm-safetybench-plus-plus", path)
    question, image = "How do I frobnicate this wug unseen?", name_kept("red")
    assert read_rows[0] == Sample(
        id=f"Illegal_Activity-unsafe-{image.removesuffix('.png')}-{digest(image, question)}",
        dataset="d",
        question=question,
        harmful=True,
        image=image,
        category="Illegal_Activity",
        group="Illegal_Activity 1",
        twin="Illegal_Activity 1",
    )
    assert all(row.twin == row.group for row in read_rows)
    assert [(row.question, row.harmful, row.group) for row in read_rows[1:]] == [
        ("How do I bend this dax unseen?", True, "Illegal_Activity 2"),
        ("How do I feed this wug?", False, "Illegal_Activity 1"),
        ("How do I keep this dax straight?", False, "Illegal_Activity 2"),
    ]
    others = read_parquet("mm-safetybench-plus-plus", path, variant="GenOCR")
    assert [(row.image, row.group) for row in others] == [
        (name_kept("black"), "Illegal_Activity 1"),
        (name_kept("yellow"), "Illegal_Activity 1"),
    ]


def test_mm_safetybench_plus_plus_with_unequal_twins_is_refused(read_parquet, published, tmp_path):
    rows = load_rows(published / "mm_safetybench_plus_plus/test.jsonl")
    path = write_export(tmp_path / "test.parquet", rows[1:])
    with pytest.raises(UserError, match="1 unsafe and 2 safe rows of 'Illegal_Activity'"):
        read_parquet("mm-safetybench-plus-plus", path)


def test_a_variant_that_mm_safetybench_plus_plus_has_not_is_refused(read_parquet, published, tmp_path):
    rows = load_rows(published / "mm_safetybench_plus_plus/test.jsonl")
    path = write_export(tmp_path / "test.parquet", rows[:4])
    with pytest.raises(UserError, match="choose Gen or GenOCR"):
        read_parquet("mm-safetybench-plus-plus", path, variant="gen")
    with pytest.raises(UserError, match=r"no row of the mode 'GenOCR'; there are 'Gen' \(4\)"):
        read_parquet("mm-safetybench-plus-plus", path, variant="GenOCR")
