"""POPE: 3,000 questions whether an object is in a photograph of COCO val2014, half of them about objects that are not.

Get `output/coco/coco_pope_random.json`, `coco_pope_popular.json` or `coco_pope_adversarial.json` from GitHub
`AoiDragon/POPE` (licence MIT), and COCO's `val2014.zip` from cocodataset.org.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.fields import RowError, cut, get_id, get_text
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples, read_objects
from cmrm.prompts.sample import Rejected, Sample

LABELS = ("yes", "no")


def read_pope(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read JSONL of `question_id`, `image`, `text`, `label` (yes or no), which upstream names `.json`.

    id = `question_id`; the reference is the label. The questions of an image, six in each file, are on one side of the
    split.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        image, label = get_text(fields, "image"), get_text(fields, "label").strip().casefold()
        if label not in LABELS:
            raise RowError(f"field 'label' is {cut(label)!r}, neither yes nor no")
        return Sample(
            id=get_id(fields, "question_id"),
            dataset=dataset,
            question=get_text(fields, "text"),
            harmful=False,
            image=image,
            reference=label,
            group=image,
            line=record.line,
        )

    return make_samples(read_objects(path, dataset=dataset), make, dataset=dataset, id_field="question_id")


FORMAT = Format(
    read=read_pope,
    harmful=False,
    judges=("match",),
    title="POPE",
    address="https://github.com/AoiDragon/POPE",
)
