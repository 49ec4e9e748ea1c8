"""VLSafe: harmful requests, each about one COCO photograph.

Get the folder `VLSafe` of Hugging Face `YangyiYY/LVLM_NLF` (see there for the terms) and COCO's `train2017.zip`
from cocodataset.org; COCO's annotations are CC BY 4.0, its photographs under the licences they have on Flickr.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.fields import content_id, get_text, get_text_or_none
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples, read_objects
from cmrm.prompts.sample import Rejected, Sample


def read_vlsafe(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read `harmlessness_examine.jsonl` or `harmlessnss_alignment.jsonl` (the typo is real).

    Fields `image_id` (a file name of COCO train2017), `caption`, `query`; the alignment file adds `reference`.
    The rows have no id, and queries recur with other images, so the id is made from image and query.
    """

    def make(record: Record) -> Sample:
        image = get_text(record.fields, "image_id")
        question = get_text(record.fields, "query")
        return Sample(
            id=content_id(question, image),
            dataset=dataset,
            question=question,
            harmful=True,
            image=image,
            caption=get_text_or_none(record.fields, "caption"),
            reference=get_text_or_none(record.fields, "reference"),
            line=record.line,
        )

    return make_samples(read_objects(path, dataset=dataset), make, dataset=dataset)


FORMAT = Format(
    read=read_vlsafe,
    harmful=True,
    title="VLSafe",
    address="https://huggingface.co/datasets/YangyiYY/LVLM_NLF",
)
