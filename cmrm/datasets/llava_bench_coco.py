"""LLaVA-Bench-COCO: 90 harmless questions about 30 photographs of COCO val2014."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.coco import strip_split
from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none
from cmrm.datasets.rows import Record, make_samples, read_objects, reject
from cmrm.samples import Rejected, Sample


def read_llava_bench_coco(
    path: Path, *, dataset: str, answers: Path | None = None, captions: Path | None = None
) -> Iterator[Sample | Rejected]:
    """Read `qa90_questions.jsonl`: fields `question_id`, `image`, `text`, `category` (conv, detail or complex).

    `answers` is `qa90_gpt4_answer.jsonl`, which gives each question's reference answer; `captions` is
    `caps_boxes_coco2014_val_80.jsonl`, whose first caption of an image becomes the sample's. Damaged lines of these
    two are rejected by their own line numbers, and a question without them goes on without.
    """
    references: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    if answers is not None:
        yield from _collect_answers(Path(answers), dataset, references)
    if captions is not None:
        yield from _collect_captions(Path(captions), dataset, descriptions)

    def make(record: Record) -> Sample:
        identity = get_id(record.fields, "question_id")
        image = get_text(record.fields, "image")
        return Sample(
            id=identity,
            dataset=dataset,
            question=get_text(record.fields, "text"),
            harmful=False,
            image=image,
            caption=descriptions.get(strip_split(image)),
            category=get_text_or_none(record.fields, "category"),
            reference=references.get(identity),
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


def _collect_captions(path: Path, dataset: str, into: dict[str, str]) -> Iterator[Rejected]:
    for record in read_objects(path, dataset=dataset):
        if isinstance(record, Rejected):
            yield _name_file(record, path)
            continue
        try:
            image = strip_split(get_text(record.fields, "image"))
            into[image] = get_text({"captions": _first(record.fields.get("captions"))}, "captions")
        except RowError as error:
            yield _reject(record, dataset, path, error)


def _first(captions: object) -> object:
    if not isinstance(captions, list) or not captions:
        raise RowError("field 'captions' is no list of texts")
    return captions[0]


def _reject(record: Record, dataset: str, path: Path, error: RowError) -> Rejected:
    return reject(dataset=dataset, line=record.line, reason=f"in {path.name}: {error}", raw=record.raw)


def _name_file(row: Rejected, path: Path) -> Rejected:
    return reject(dataset=row.dataset, line=row.line, reason=f"in {path.name}: {row.reason}", raw=row.raw)
