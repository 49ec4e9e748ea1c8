"""MM-Vet: 218 harmless questions about images that take several abilities each, with short or long answers.

Get `mm-vet.zip` from the releases of GitHub `yuweihao/MM-Vet`, which holds `mm-vet.json` and the folder `images`;
licence of the data CC BY-NC 4.0. MM-Vet v2 has questions with several images in between, which are rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.documents import KEY, read_entries
from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none, name_type
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample

# How v2 writes an image within a question.
IMAGE_WITHIN = "<IMG>"


def read_mm_vet(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read an object of id → `imagename`, `question`, `answer`, `capability` (a list), `imagesource`.

    The category is the abilities in the order of the alphabet (`math+ocr`). The reference is the answer as it is:
    `<OR>` stands between answers that are right each, `<AND>` between parts that are all needed. The questions of an
    image are on one side of the split.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        question = get_text(fields, "question")
        if IMAGE_WITHIN in question:
            raise RowError(f"its question holds images ({IMAGE_WITHIN}, MM-Vet v2), and a sample has one")
        image = get_text(fields, "imagename")
        return Sample(
            id=get_id(fields, KEY),
            dataset=dataset,
            question=question,
            harmful=False,
            image=image,
            category=_join_abilities(fields),
            reference=get_text_or_none(fields, "answer"),
            group=image,
            line=record.line,
        )

    entries = read_entries(path, dataset=dataset, containers=("object",))
    return make_samples(entries, make, dataset=dataset, id_field=KEY)


def _join_abilities(fields: Mapping[str, Any]) -> str | None:
    found = fields.get("capability")
    if found is None:
        return None
    if not isinstance(found, list):
        raise RowError(f"field 'capability' is {name_type(found)}, not a list of texts")
    return "+".join(sorted(get_text({"capability": one}, "capability") for one in found)) or None


FORMAT = Format(
    read=read_mm_vet,
    harmful=False,
    title="MM-Vet",
    address="https://github.com/yuweihao/MM-Vet",
)
