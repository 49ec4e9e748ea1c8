"""What the tests of data sets share: fixture files in their published layouts, and a way to read them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from cmrm.datasets import read_dataset, screen
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample
from tests.cmrm.datasets.case import Case
from tests.cmrm.datasets.cases_image_benchmarks import CASES as IMAGE_BENCHMARKS
from tests.cmrm.datasets.cases_text_benchmarks import CASES as TEXT_BENCHMARKS

PUBLISHED = Path(__file__).parent / "published"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A copy of the fixture files that a test may damage."""
    return Path(shutil.copytree(PUBLISHED, tmp_path / "published"))


@pytest.fixture
def read() -> Callable[..., list[Sample | Rejected]]:
    def read_rows(name: str, path: Path, **options):
        return list(read_dataset(name, path, dataset="d", **options))

    return read_rows


@pytest.fixture
def draw_images(tmp_path: Path) -> Callable[..., Path]:
    """Write a small picture for each image that the samples name."""

    def draw(samples) -> Path:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        for sample in samples:
            if sample.image is not None:
                (folder / sample.image).parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (4, 4)).save(folder / sample.image)
        return folder

    return draw


CASES = [
    Case(
        format="vlsafe",
        file="vlsafe/harmlessness_examine.jsonl",
        kind="lines",
        question=("query",),
        image=("image_id",),
    ),
    Case(
        format="vlsafe",
        file="vlsafe/harmlessnss_alignment.jsonl",
        kind="lines",
        question=("query",),
        image=("image_id",),
    ),
    Case(
        format="forbidden-questions",
        file="forbidden_questions/forbidden_question_set.csv",
        kind="csv",
        question=("question",),
        id=("q_id",),
    ),
    Case(
        format="llava-bench-coco",
        file="llava_bench_coco/qa90_questions.jsonl",
        kind="lines",
        question=("text",),
        id=("question_id",),
        image=("image",),
    ),
    Case(
        format="mm-safetybench",
        file="mm_safetybench/01-Illegal_Activitiy.json",
        kind="object",
        question=("Rephrased Question(SD)",),
    ),
    Case(
        format="figstep",
        file="figstep/safebench.csv",
        kind="csv",
        question=("question",),
        id=("task_id",),
        image=("dataset",),
        escape="/../../x",
    ),
    Case(
        format="xstest",
        file="xstest/xstest_v2_prompts.csv",
        kind="csv",
        question=("prompt",),
        id=("type",),
    ),
    Case(format="xstest", file="xstest/xstest_prompts.csv", kind="csv", question=("prompt",), id=("label",)),
    Case(
        format="mossbench",
        file="mossbench/information.json",
        kind="object",
        question=("question",),
        id=("pid",),
        image=("image",),
    ),
    Case(
        format="mossbench",
        file="mossbench/list.json",
        kind="list",
        question=("question",),
        id=("pid",),
        image=("image",),
    ),
    Case(
        format="vlguard",
        file="vlguard/train.json",
        kind="list",
        question=("instr-resp", 0, "safe_instruction"),
        id=("id",),
        image=("image",),
    ),
    Case(
        format="scienceqa",
        file="scienceqa/problems.json",
        kind="object",
        question=("question",),
        image=("image",),
        escape="../../../secret.png",
    ),
    *TEXT_BENCHMARKS,
    *(Case(**one) for one in IMAGE_BENCHMARKS),
]


@pytest.fixture(params=CASES, ids=lambda case: case.file)
def case(request) -> Case:
    return request.param


@pytest.fixture
def look(case, published, draw_images, tmp_path) -> Callable[[Path], list[Rejected] | None]:
    """Read and screen a file: the rows set aside, or None for a stop; whatever else is raised fails the test."""
    held = tmp_path / "images"
    images = draw_images(read_dataset(case.format, published / case.file, dataset="d", images=held))
    (published / "secret.png").write_bytes(b"")

    def read_and_screen(path: Path) -> list[Rejected] | None:
        stop = None
        try:
            read = read_dataset(case.format, path, dataset="d", images=images)
            rows = list(screen(read, images=images))
        except UserError as error:
            stop = str(error)
        if stop is not None:
            assert str(path) in stop
            return None
        rejected = [row for row in rows if isinstance(row, Rejected)]
        for row in rejected:
            assert row.line >= 1
            assert len(row.reason) > 5
            assert len(row.raw) <= 500
            assert "\0" not in row.raw
        return rejected

    return read_and_screen
