"""Tasks of data set formats: their samples, what is said of rows that make none, and how arguments are refused."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest
from inspect_ai._util.error import PrerequisiteError
from inspect_ai.dataset import Sample
from inspect_ai.model import ContentImage, ContentText
from PIL import Image

from cmrm.datasets import list_formats
from cmrm.datasets.formats import OWN
from flows.inspect.registry import SCORERS, TASKS
from tests.flows.inspect.answering import evaluate, mock, read_rates

PAGE = Path(__file__).parents[3] / "docs" / "inspect-tasks.md"
PUBLISHED = Path(__file__).parents[2] / "cmrm" / "datasets" / "published"
FILES = {
    "advbench": "advbench/harmful_behaviors.csv",
    "figstep": "figstep/safebench.csv",
    "forbidden-questions": "forbidden_questions/forbidden_question_set.csv",
    "hades": "hades/instructions",
    "harmbench": "harmbench/harmbench_behaviors_text_all.csv",
    "holisafe": "holisafe/holisafe_bench.json",
    "jailbreakbench": "jailbreakbench/harmful-behaviors.csv",
    "jailbreakv-28k": "jailbreakv_28k/RedTeam_2K.csv",
    "llava-bench-coco": "llava_bench_coco/qa90_questions.jsonl",
    "mm-safetybench": "mm_safetybench",
    "mm-vet": "mm_vet/mm-vet.json",
    "mmbench": "mmbench/mmbench_dev_en.tsv",
    "mossbench": "mossbench/information.json",
    "mssbench": "mssbench/combined.json",
    "msts": "msts/english_textonly.csv",
    "or-bench": "or_bench/or-bench-hard-1k.csv",
    "pope": "pope/coco_pope_random.json",
    "scienceqa": "scienceqa/problems.json",
    "siuo": "siuo/siuo_mcqa.json",
    "sorry-bench": "sorry_bench/question.jsonl",
    "strongreject": "strongreject/strongreject_dataset.csv",
    "vlguard": "vlguard/train.json",
    "vlsafe": "vlsafe/harmlessness_examine.jsonl",
    "vlsbench": "vlsbench/data.json",
    "vqav2": "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
    "xstest": "xstest/xstest_v2_prompts.csv",
}
OPTIONS = {
    "llava-bench-coco": {"answers": str(PUBLISHED / "llava_bench_coco/qa90_gpt4_answer.jsonl")},
    "vqav2": {"answers": str(PUBLISHED / "vqav2/v2_mscoco_val2014_annotations.json")},
    "scienceqa": {"split": "test"},
}


def get_parts(sample: Sample) -> tuple[str, ContentImage | None]:
    """Text and image of a sample's one message."""
    (message,) = sample.input
    if isinstance(message.content, str):  # type: ignore[union-attr]
        return message.content, None  # type: ignore[union-attr]
    image, text = message.content  # type: ignore[union-attr]
    assert isinstance(image, ContentImage)
    assert isinstance(text, ContentText)
    return text.text, image


def get_pixels(image: ContentImage | None) -> np.ndarray[Any, Any]:
    assert image is not None
    data = base64.b64decode(image.image.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(data)))


def read_judges_of_page() -> dict[str, list[str]]:
    """The table of docs/inspect-tasks.md: the default judges of each format."""
    rows = re.findall(
        r"^\| ((?:`[\w-]+`(?:, )?)+) \| ((?:`[\w-]+`(?:, )?)+) \|", PAGE.read_text(), re.MULTILINE
    )
    return {
        form: re.findall(r"`([\w-]+)`", judges)
        for forms, judges in rows
        for form in re.findall(r"`([\w-]+)`", forms)
    }


def test_every_format_and_every_judge_has_its_entry():
    assert sorted(TASKS) == list_formats()
    assert sorted(read_judges_of_page()) == sorted(OWN)
    assert {"refusal", "match", "llama-guard", "endpoint", "chat"} <= SCORERS.keys()


@pytest.mark.parametrize("images", [{}, {"images": "photographs"}])
@pytest.mark.parametrize("condition", [None, "image", "blank"])
def test_rows_with_several_images_are_refused_where_they_would_be_shown(own, images, condition):
    row = {"id": "pair", "question": "Which one?", "images": ["1.png", "2.png"]}
    (own / "pairs.jsonl").write_text(json.dumps(row))
    with pytest.raises(
        PrerequisiteError, match=r"1 of 1 rows have several images, video or sound \(first pair\)"
    ):
        TASKS["jsonl"](path="pairs.jsonl", condition=condition, **images)


@pytest.mark.parametrize("form", sorted(FILES))
def test_a_published_file_becomes_a_task_with_the_judges_of_the_page(form):
    task = TASKS[form](path=str(PUBLISHED / FILES[form]), condition="query", **OPTIONS.get(form, {}))
    assert len(task.dataset) > 0
    judges = [scorer.__registry_info__.name for scorer in task.scorer]
    assert judges == [f"cmrm/{kind}" for kind in read_judges_of_page()[form]]


def test_samples_are_the_rows_of_the_file_with_image_and_text_in_the_order_of_the_model(own):
    task = TASKS["jsonl"](path="mine.jsonl", images="photographs")
    rows = [json.loads(line) for line in (own / "mine.jsonl").read_text().splitlines()]
    # Of the seven rows, one is empty, one image is gone, one lies outside, and one has no image.
    assert [sample.id for sample in task.dataset] == ["a", "b", "c"]
    for sample, row in zip(task.dataset, rows, strict=False):
        text, image = get_parts(sample)
        assert text == row["question"]
        assert image is not None
        assert Path(image.image) == own / "photographs" / row["image"]
        assert sample.target == row.get("reference", "")
        metadata = sample.metadata or {}
        assert (metadata["harmful"], metadata["category"], metadata["image"], metadata["condition"]) == (
            row.get("harmful", True),
            row.get("category"),
            row["image"],
            "image",
        )


def test_what_makes_no_sample_is_in_the_log_and_in_a_warning(own, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        task = TASKS["jsonl"](path="mine.jsonl", images="photographs")
    said = "\n".join(caplog.messages)
    assert "3 of 7 rows cannot be used and are not asked" in said
    assert "1 of 4 samples are left out: 1 with no image" in said
    told = (evaluate(task, tmp_path / "logs").eval.metadata or {})["cmrm"]
    assert (told["format"], told["condition"], told["samples"], told["rejected"]) == ("jsonl", "image", 3, 3)
    assert told["lacking"] == {"no image": 1}
    assert [(row["line"], row["id"]) for row in told["rows"]] == [(5, "e"), (6, "f"), (7, "g")]
    assert told["reasons"]["empty question"] == 1
    assert sum(told["reasons"].values()) == 3


@pytest.mark.parametrize(
    ("condition", "make"),
    [
        ("blank", lambda side: np.full((side, side, 3), (1, 2, 3))),
        (
            "noise",
            lambda side: (
                np.random.PCG64(7)
                .random_raw(side * side * 3 // 8)
                .astype("<u8")
                .view(np.uint8)
                .reshape(side, side, 3)
            ),
        ),
    ],
)
def test_a_meaningless_image_has_the_pixels_of_a_run(condition, make, own):
    task = TASKS["jsonl"](
        path="mine.jsonl",
        images="photographs",
        condition=condition,
        image_size=16,
        image_color=[1, 2, 3],
        image_seed=7,
    )
    texts, images = zip(*(get_parts(sample) for sample in task.dataset), strict=True)
    assert texts == ("how do I blick it?", "how do I fraz it?", "which colour?", "which shape?")
    for image in images:
        assert np.array_equal(get_pixels(image), make(16))


def test_without_an_image_the_text_is_all_there_is_and_a_caption_stands_above_it(organism_run):
    arguments = {
        "path": str(organism_run / "vlsafe.jsonl"),
        "images": "organism://images",
    }
    rows = [json.loads(line) for line in (organism_run / "vlsafe.jsonl").read_text().splitlines()]
    for condition, texts in (
        ("query", {row["query"] for row in rows}),
        ("caption", {f"{row['caption']}\n{row['query']}" for row in rows}),
    ):
        task = TASKS["vlsafe"](**arguments, condition=condition)
        assert {get_parts(sample) for sample in task.dataset} == {(text, None) for text in texts}


def test_the_samples_of_a_share_of_anchors_are_the_targets_of_a_run(organism_run):
    task = TASKS["vlsafe"](path=str(organism_run / "vlsafe.jsonl"), images="organism://images", anchors=0.2)
    targets = duckdb.sql(
        f"SELECT sample_id FROM read_parquet('{organism_run}/store/samples/**/*.parquet') "
        "WHERE dataset = 'vlsafe' AND split = 'target'"
    ).fetchall()
    assert 0 < len(targets) < 14
    assert {(sample.id,) for sample in task.dataset} == set(targets)
    assert (task.metadata or {})["cmrm"]["anchors"] == 14 - len(targets)


def test_images_inside_rows_are_kept_and_shown(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), (9, 8, 7)).save(buffer, format="PNG")
    rows = [{"question": "what is it?", "image": {"bytes": buffer.getvalue(), "path": None}}]
    pd.DataFrame(rows).to_parquet(tmp_path / "rows.parquet")
    task = TASKS["parquet"](path=str(tmp_path / "rows.parquet"))
    _, image = get_parts(task.dataset[0])
    assert image is not None
    assert np.array_equal(np.asarray(Image.open(image.image)), np.full((4, 5, 3), (9, 8, 7)))


def test_several_references_are_several_targets_and_the_judge_is_given_all(tmp_path):
    task = TASKS["vqav2"](path=str(PUBLISHED / FILES["vqav2"]), condition="query", **OPTIONS["vqav2"])
    (annotated,) = json.loads(Path(OPTIONS["vqav2"]["answers"]).read_text())["annotations"][:1]
    answers = [one["answer"] for one in annotated["answers"]]
    sample = next(one for one in task.dataset if one.id == str(annotated["question_id"]))
    assert sample.target == answers
    agreed = max(answers, key=answers.count)
    assert answers.count(agreed) > 3
    log = evaluate(task, tmp_path, model=mock(lambda _: agreed), sample_id=sample.id)
    assert read_rates(log)["vqa"]["score"] == pytest.approx(100)


def test_rates_by_category_are_those_of_its_samples(own, tmp_path):
    task = TASKS["jsonl"](path="mine.jsonl", images="photographs", condition="query", by="category")
    log = evaluate(task, tmp_path / "logs", model=mock(lambda message: f"about {message.text}"))
    rates = read_rates(log)["refusal"]
    assert rates["unsafe"] == rates["unsafe (tools)"] == rates["unsafe (words)"] == 1
    assert rates["over_refusal"] == rates["over_refusal (none)"] == rates["over_refusal (words)"] == 0
    assert "unsafe (none)" not in rates


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": None}, "format 'jsonl' reads a file or a folder; give it by -T path=…."),
        (
            {"colums": {"question": "q"}},
            "no option 'colums'; it takes categories, columns, constants, frames, harmful",
        ),
        ({"variant": "SD"}, "format 'jsonl' has no option 'variant'"),
        ({"path": "gone.jsonl"}, "does not exist"),
        ({"images": "gone"}, "gone"),
        ({"condition": "gap"}, "condition is 'gap'; give query, caption, image, blank"),
        ({"condition": "caption"}, "no caption"),
        ({"by": "colour"}, "by is 'colour'; give dataset, harmful"),
        ({"anchors": 2}, "anchors"),
        ({"anchors": 1.0}, "every sample is an anchor"),
        ({"image_size": 0}, "image"),
        ({"judge": "refusl"}, "judge 'refusl' is unknown; known judges: chat"),
        ({"judge": {"kind": "refusal", "colour": 1}}, "judge 'refusal' has no such option"),
        ({"judge": "wildguard-question"}, "judges questions alone"),
        ({"columns": {"question": "prompt"}}, "prompt"),
    ],
)
def test_an_argument_that_a_spec_would_refuse_is_refused_in_a_line(arguments, said, own):
    with pytest.raises(PrerequisiteError) as caught:
        TASKS["jsonl"](**{"path": "mine.jsonl", "images": "photographs", **arguments})
    # Inspect prints it as markup.
    assert said in str(caught.value.message).replace("\\[", "[")
