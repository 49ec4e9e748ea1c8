"""LLaVA-Bench-COCO: 90 harmless questions about 30 photographs of COCO val2014.

Get `qa90_questions.jsonl` and `qa90_gpt4_answer.jsonl` (folder `playground/data/coco2014_val_qa_eval`) and
`caps_boxes_coco2014_val_80.jsonl` (folder `llava/eval/table`) from GitHub `haotian-liu/LLaVA`, and COCO's
`val2014.zip` from cocodataset.org; the answers were made by GPT-4, under OpenAI's terms of use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmrm.datasets.coco import strip_split
from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none, name_type
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples, read_objects, reject
from cmrm.prompts.sample import Rejected, Sample


@dataclass(frozen=True, kw_only=True)
class _Described:
    """The text description of an image: one caption, and all captions with all boxes."""

    caption: str
    context: str


def read_llava_bench_coco(
    path: Path, *, dataset: str, answers: Path | None = None, captions: Path | None = None
) -> Iterator[Sample | Rejected]:
    """Read `qa90_questions.jsonl`: fields `question_id`, `image`, `text`, `category` (conv, detail or complex).

    `answers` is `qa90_gpt4_answer.jsonl`, which gives each question's reference answer; `captions` is
    `caps_boxes_coco2014_val_80.jsonl`, whose first caption of an image becomes the sample's, and whose captions and
    boxes, a line each, become its context, as in LLaVA's own evaluation. Damaged lines of these two are rejected by
    their own line numbers; a question without an entry there is kept.
    """
    references: dict[str, str] = {}
    described: dict[str, _Described] = {}
    if answers is not None:
        yield from _collect_answers(Path(answers), dataset, references)
    if captions is not None:
        yield from _collect_captions(Path(captions), dataset, described)

    def make(record: Record) -> Sample:
        identity = get_id(record.fields, "question_id")
        image = get_text(record.fields, "image")
        known = described.get(strip_split(image))
        return Sample(
            id=identity,
            dataset=dataset,
            question=get_text(record.fields, "text"),
            harmful=False,
            image=image,
            caption=None if known is None else known.caption,
            category=get_text_or_none(record.fields, "category"),
            reference=references.get(identity),
            context=None if known is None else known.context,
            line=record.line,
        )

    yield from make_samples(
        read_objects(path, dataset=dataset), make, dataset=dataset, id_field="question_id"
    )


def _collect_answers(path: Path, dataset: str, into: dict[str, str]) -> Iterator[Rejected]:
    for record in read_objects(path, dataset=dataset):
        if isinstance(record, Rejected):
            yield _name_file(record, path)
            continue
        try:
            into[get_id(record.fields, "question_id")] = get_text(record.fields, "text")
        except RowError as error:
            yield _reject(record, dataset, path, error)


def _collect_captions(path: Path, dataset: str, into: dict[str, _Described]) -> Iterator[Rejected]:
    for record in read_objects(path, dataset=dataset):
        if isinstance(record, Rejected):
            yield _name_file(record, path)
            continue
        try:
            image = strip_split(get_text(record.fields, "image"))
            into[image] = _describe(record.fields)
        except RowError as error:
            yield _reject(record, dataset, path, error)


def _describe(fields: Mapping[str, Any]) -> _Described:
    captions = _get_list(fields, "captions")
    if not captions:
        raise RowError("field 'captions' is an empty list")
    texts = [get_text({"captions": caption}, "captions") for caption in captions]
    boxes = [_show_box(box) for box in _get_list(fields, "instances")]
    parts = ["\n".join(texts), *(["\n".join(boxes)] if boxes else [])]
    return _Described(caption=texts[0], context="\n\n".join(parts))


def _show_box(instance: object) -> str:
    fields = instance if isinstance(instance, dict) else {}
    edges = fields.get("bbox")
    if not isinstance(edges, list) or not all(type(edge) in (int, float) for edge in edges):
        raise RowError("field 'instances' is no list of {category, bbox: [numbers]}")
    return f"{get_text(fields, 'category')}: {edges}"


def _get_list(fields: Mapping[str, Any], name: str) -> list[Any]:
    value = fields.get(name, [])
    if not isinstance(value, list):
        raise RowError(f"field {name!r} is {name_type(value)}, not a list")
    return value


def _reject(record: Record, dataset: str, path: Path, error: RowError) -> Rejected:
    return reject(dataset=dataset, line=record.line, reason=f"in {path.name}: {error}", raw=record.raw)


def _name_file(row: Rejected, path: Path) -> Rejected:
    return reject(dataset=row.dataset, line=row.line, reason=f"in {path.name}: {row.reason}", raw=row.raw)


FORMAT = Format(
    read=read_llava_bench_coco,
    harmful=False,
    options=frozenset(("answers", "captions")),
    files=frozenset(("answers", "captions")),
    judges=("refusal", "overlap"),
    title="LLaVA-Bench-COCO",
    address="https://github.com/haotian-liu/LLaVA",
)
