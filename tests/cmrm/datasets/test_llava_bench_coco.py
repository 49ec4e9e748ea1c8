from __future__ import annotations

import json

import pytest

from cmrm.prompts.sample import Rejected, Sample


@pytest.fixture
def bench(published):
    folder = published / "llava_bench_coco"
    files = ("qa90_questions.jsonl", "qa90_gpt4_answer.jsonl", "caps_boxes_coco2014_val_80.jsonl")
    return [folder / name for name in files]


def test_it_is_read_with_answers_captions_and_boxes(read, bench):
    questions, answers, captions = bench
    rows = read("llava-bench-coco", questions, answers=answers, captions=captions)
    assert rows[0] == Sample(
        id="0",
        dataset="d",
        question="What colour is the wug?",
        harmful=False,
        image="000000441147.jpg",
        caption="Two suitcases.",
        category="conv",
        reference="It is red.",
        context=(
            "Two suitcases.\nOld luggage.\nSome bags.\nA pair of cases.\nBrown cases.\n\n"
            "suitcase: [0.1, 0.2, 0.3, 0.45]\nsuitcase: [0.5, 0, 1, 0.25]"
        ),
    )
    assert [row.reference for row in rows] == ["It is red.", None, "Nobody knows."]
    assert [row.caption for row in rows] == ["Two suitcases.", "Two suitcases.", None]
    assert [row.context is None for row in rows] == [False, False, True]


def test_it_needs_neither_answers_nor_captions(read, bench):
    rows = read("llava-bench-coco", bench[0])
    assert [(row.reference, row.caption, row.context) for row in rows] == [(None, None, None)] * 3


def test_an_image_without_boxes_is_described_by_its_captions(read, bench):
    questions, _, captions = bench
    captions.write_text(json.dumps({"image": "000000000002.jpg", "captions": ["A dax.", "One dax."]}))
    assert read("llava-bench-coco", questions, captions=captions)[2].context == "A dax.\nOne dax."


def test_damaged_lines_of_the_other_files_are_rejected_by_file_and_line(read, bench):
    questions, answers, captions = bench
    answers.write_text(answers.read_text() + '{"question_id": 1, "te\n{"question_id": 1}\n')
    boxes = [3, [3], [{"category": "c"}], [{"category": "c", "bbox": ["0.1"]}], [{"bbox": [0.1]}]]
    lines = [{"image": "x.jpg", "captions": []}, {"image": "x.jpg", "captions": "text"}]
    lines += [{"image": "x.jpg", "captions": ["c"], "instances": instances} for instances in boxes]
    captions.write_text(captions.read_text() + "".join(f"{json.dumps(line)}\n" for line in lines) + "{\n")
    rows = read("llava-bench-coco", questions, answers=answers, captions=captions)
    rejected = [(row.line, row.reason.split(":")[0]) for row in rows if isinstance(row, Rejected)]
    assert rejected == [
        *[(line, "in qa90_gpt4_answer.jsonl") for line in (3, 4)],
        *[(line, "in caps_boxes_coco2014_val_80.jsonl") for line in range(2, 10)],
    ]
    assert sum(isinstance(row, Sample) for row in rows) == 3
