"""Generate the organism's data sets from a seed, in published file formats, with pictures.

By default every question is a test question: its verb–object pair, template and scene are held out from training. The
recipe writes smaller files from validation questions, for early stopping.
Formats: VLSafe's `harmlessness_examine.jsonl`; the forbidden question set's CSV, with COCO captions to pair it with;
LLaVA-Bench-COCO's questions, answers and captions with boxes; MM-SafetyBench and XSTest (files of their own).
"""

from __future__ import annotations

import csv
import itertools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmrm.organism.data_files import DataFiles
from cmrm.organism.mm_safetybench import write_mm_safetybench
from cmrm.organism.questions import (
    FORBIDDEN_VERBS,
    PLAIN_TEMPLATES,
    POLICIES,
    ROLE_PLAY_TEMPLATES,
    Question,
    ask_about,
    ask_for_description,
    draw_instruction,
    instruct,
)
from cmrm.organism.world import COLORS, PICTURE_SIZE, Painting, Scene, Split, describe
from cmrm.organism.writers import WriterContext
from cmrm.organism.xstest import write_xstest

VLSAFE_ROWS = 1_110
QUESTIONS_PER_POLICY = 35
COCO_IMAGES = 500
BENCH_IMAGES = 220
DESCRIBED_IMAGES = 60
CAPTIONS_PER_IMAGE = 5


def write_data(folder: Path, *, seed: int, split: Split = "test", share: float = 1.0) -> DataFiles:
    """Write the data sets and their pictures under `folder`; one seed always gives the same bytes of text.

    `share` scales the number of rows of each data set.
    """
    files = DataFiles(folder=folder)
    for path in (files.images, files.vlsafe.parent, files.coco_captions.parent, files.bench_questions.parent):
        path.mkdir(parents=True, exist_ok=True)
    files.mm_safetybench.mkdir(parents=True, exist_ok=True)
    files.xstest.parent.mkdir(parents=True, exist_ok=True)
    names = (f"{number:012d}.png" for number in itertools.count(1))
    # One random generator per data set, so that changing one leaves the others unchanged.
    for write in (
        _write_vlsafe,
        _write_forbidden_questions,
        _write_coco_captions,
        _write_bench,
        write_mm_safetybench,
        write_xstest,
    ):
        rng = random.Random(f"{seed} {split} {write.__name__}")
        write(WriterContext(files=files, rng=rng, names=names, split=split, share=share))
    return files


def _write_vlsafe(context: WriterContext) -> None:
    rng = context.rng
    asked = list(itertools.product(context.draw_pairs(part=0), PLAIN_TEMPLATES[context.split]))
    rows = []
    for ((verb, thing), template), name in zip(
        rng.sample(asked, context.count(VLSAFE_ROWS)), context.names, strict=False
    ):
        scene = context.paint_picture(name).scene
        color = rng.choice(scene.items).color if rng.random() < 1 / 3 else None
        rows.append(
            {
                "image_id": name,
                "caption": describe(scene, caption=rng.randrange(CAPTIONS_PER_IMAGE)),
                "query": instruct(verb, thing, template=template, color=color).text,
            }
        )
    _write_jsonl(context.files.vlsafe, rows)


def _write_forbidden_questions(context: WriterContext) -> None:
    rng = context.rng
    asked = context.draw_pairs(part=1)
    with context.files.forbidden_questions.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("content_policy_id", "content_policy_name", "q_id", "question"))
        for policy in range(POLICIES):
            verbs = FORBIDDEN_VERBS[2 * policy : 2 * policy + 2]
            own = [pair for pair in asked if pair[0] in verbs]
            drawn = rng.sample(
                list(itertools.product(own, ROLE_PLAY_TEMPLATES[context.split])),
                context.count(QUESTIONS_PER_POLICY),
            )
            for number, ((verb, thing), template) in enumerate(drawn):
                color = rng.choice(sorted(COLORS)) if rng.random() < 1 / 3 else None
                text = instruct(verb, thing, template=template, color=color).text
                writer.writerow((policy, f"No {verbs[0]}ing or {verbs[1]}ing", number, text))


def _write_coco_captions(context: WriterContext) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, name in zip(range(1, context.count(COCO_IMAGES) + 1), context.names, strict=False):
        scene = context.paint_picture(name).scene
        images.append({"id": number, "file_name": name, "height": PICTURE_SIZE, "width": PICTURE_SIZE})
        for index in range(CAPTIONS_PER_IMAGE):
            caption = describe(scene, caption=index)
            annotations.append({"id": len(annotations) + 1, "image_id": number, "caption": caption})
    text = json.dumps({"images": images, "annotations": annotations})
    context.files.coco_captions.write_text(text + "\n", encoding="utf-8")


def _write_bench(context: WriterContext) -> None:
    rng, split = context.rng, context.split
    asked: list[tuple[str, Question]] = []
    captions = []
    for number, name in zip(range(context.count(BENCH_IMAGES)), context.names, strict=False):
        painting = context.paint_picture(name)
        captions.append(_caption_with_boxes(number, name, painting))
        asked += [(name, question) for question in _ask_twice(painting.scene, rng, split)]
        if number < context.count(DESCRIBED_IMAGES):
            asked.append((name, ask_for_description(painting.scene, rng, split=split)))
        asked += [(name, draw_instruction(rng, kind="harmless", split=split)) for _ in range(2)]
    questions = [
        {"question_id": number, "image": name, "text": question.text, "category": question.category}
        for number, (name, question) in enumerate(asked)
    ]
    answers = [
        {"question_id": number, "text": question.reference or question.answer, "category": question.category}
        for number, (_, question) in enumerate(asked)
    ]
    _write_jsonl(context.files.bench_questions, questions)
    _write_jsonl(context.files.bench_answers, answers)
    _write_jsonl(context.files.bench_captions, captions)


def _ask_twice(scene: Scene, rng: random.Random, split: Split) -> tuple[Question, Question]:
    first = second = _ask_answerable(scene, rng, split)
    while second.text == first.text:
        second = _ask_answerable(scene, rng, split)
    return first, second


def _ask_answerable(scene: Scene, rng: random.Random, split: Split) -> Question:
    # The organism does not learn which of two shapes has which colour, so with two it is only asked how many there
    # are: utility must be measured on what the model can do.
    while True:
        question = ask_about(scene, rng, split=split)
        if len(scene.items) == 1 or question.reference == "two":
            return question


def _caption_with_boxes(number: int, name: str, painting: Painting) -> dict[str, Any]:
    # Upstream gives boxes as fractions of the picture's width and height.
    instances = [
        {
            "category": f"{item.color} {item.shape}",
            "bbox": [round(edge / PICTURE_SIZE, 3) for edge in box],
        }
        for item, box in zip(painting.scene.items, painting.boxes, strict=True)
    ]
    captions = [describe(painting.scene, caption=index) for index in range(CAPTIONS_PER_IMAGE)]
    return {"id": number, "image": name, "captions": captions, "instances": instances}


def _write_jsonl(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
