"""VQA v2: harmless questions about photographs of COCO, with the short answers of ten people each.

Get `v2_OpenEnded_mscoco_val2014_questions.json` and `v2_mscoco_val2014_annotations.json` (or those of `train2014`;
those of `test2015` have questions alone) from visualqa.org, whose terms of use hold, and COCO's images from
cocodataset.org. The files of VQA v1 have the same layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmrm.datasets.documents import read_entries
from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none, name_type
from cmrm.datasets.file_names import read_file_name
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples, reject
from cmrm.prompts.sample import Rejected, Sample

# Which images a file of questions is about; the development questions are a part of the test's.
SPLITS = {
    "train2014": "train2014",
    "val2014": "val2014",
    "test2015": "test2015",
    "test-dev2015": "test2015",
}
# VQA accuracy is an exact match, so a sentence would never be right. Models were trained with this wording.
REQUEST = "Answer the question using a single word or phrase."


@dataclass(frozen=True, kw_only=True)
class _Annotation:
    """The annotators' answers, as JSON, and the type of answer."""

    references: str
    kind: str | None


def read_vqav2(path: Path, *, dataset: str, answers: Path | None = None) -> Iterator[Sample | Rejected]:
    """Read the object whose `questions` list `image_id`, `question`, `question_id`; the file's name gives the split.

    `answers` is the object whose `annotations` list `question_id`, `answers` ({answer, …}), `answer_type`. The
    reference is a JSON list of people's answers, for the judge `vqa`; the category is the answer's type (yes/no, number
    or other). id = `question_id`; the image is `COCO_<split>_<twelve digits>.jpg`, and its questions are on one side of
    the split. A request for a short answer follows each question. Rejected rows of `answers` come first.
    """
    split = read_file_name(path, SPLITS, dataset=dataset)
    annotations: dict[str, _Annotation] = {}
    if answers is not None:
        yield from _collect_annotations(answers, dataset, annotations)

    def make(record: Record) -> Sample:
        fields = record.fields
        identity = get_id(fields, "question_id")
        image = f"COCO_{split}_{_get_number(fields, 'image_id'):012d}.jpg"
        question = get_text(fields, "question").strip()
        known = annotations.get(identity)
        return Sample(
            id=identity,
            dataset=dataset,
            # Without a question there is no request; screening rejects the sample.
            question=f"{question}\n{REQUEST}" if question else "",
            harmful=False,
            image=image,
            category=None if known is None else known.kind,
            reference=None if known is None else known.references,
            group=image,
            line=record.line,
        )

    entries = read_entries(path, dataset=dataset, containers=("list",), inside=("questions",))
    yield from make_samples(entries, make, dataset=dataset, id_field="question_id")


def _collect_annotations(path: Path, dataset: str, into: dict[str, _Annotation]) -> Iterator[Rejected]:
    for record in read_entries(path, dataset=dataset, containers=("list",), inside=("annotations",)):
        if isinstance(record, Rejected):
            yield reject(
                dataset=dataset, line=record.line, reason=f"in {path.name}: {record.reason}", raw=record.raw
            )
            continue
        try:
            into[get_id(record.fields, "question_id")] = _Annotation(
                references=_list_answers(record.fields), kind=get_text_or_none(record.fields, "answer_type")
            )
        except RowError as error:
            reason = f"in {path.name}: {record.place}: {error}"
            yield reject(dataset=dataset, line=record.line, reason=reason, raw=record.raw)


def _list_answers(fields: Mapping[str, Any]) -> str:
    given = fields.get("answers")
    if not isinstance(given, list) or not given:
        raise RowError(
            f"field 'answers' is {'empty' if given == [] else name_type(given)}, not a list of answers"
        )
    texts = [get_text(one if isinstance(one, dict) else {}, "answer") for one in given]
    return json.dumps(texts, ensure_ascii=False)


def _get_number(fields: Mapping[str, Any], name: str) -> int:
    value = fields.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**12:
        raise RowError(f"field {name!r} is {name_type(value)}, not the number of an image")
    return value


FORMAT = Format(
    read=read_vqav2,
    harmful=False,
    options=frozenset(("answers",)),
    files=frozenset(("answers",)),
    judges=("vqa",),
    title="VQA v2",
    address="https://visualqa.org",
)
