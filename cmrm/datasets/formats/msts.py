"""MSTS: short harmful requests whose harm lies in what the image shows, in English and ten more languages.

Get a file of `data/prompts` (such as `english_multimodal.csv`) from GitHub `paul-rottger/msts-multimodal-safety`;
licence CC BY 4.0. Its `src/0_download_images.py` gets the images, each under its own licence, as
`unsafe_image_0001.jpg` or `.png`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import get_id, get_text, get_text_or_none, join_names
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample

COLUMNS = frozenset(("hazard_category", "hazard_subcategory", "case_id", "prompt_text", "prompt_type"))
IMAGE = "unsafe_image_id"


def read_msts(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a CSV with `hazard_category`, `hazard_subcategory`, `case_id`, `case_text`, `prompt_text`, `prompt_type`.

    id = `prompt_id`, or case-type in the translations, which have none; the category is category/subcategory. The image
    is `<unsafe_image_id>.jpg`, found as PNG too, and its English description the caption and the context for judges;
    the file without images has neither. The case's English text, which its assistance, its intention and its
    translations share, decides the side of the split.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        shown = IMAGE in fields
        described = get_text_or_none(fields, "unsafe_image_description") if shown else None
        return Sample(
            id=_get_id(fields),
            dataset=dataset,
            question=get_text(fields, "prompt_text"),
            harmful=True,
            image=f"{get_id(fields, IMAGE)}.jpg" if shown else None,
            caption=described,
            category=join_names(*(get_text_or_none(fields, f"hazard_{one}category") for one in ("", "sub"))),
            context=described,
            group=get_text_or_none(fields, "case_text") or get_id(fields, "case_id"),
            line=record.line,
        )

    return make_samples(
        read_table(path, dataset=dataset, columns=COLUMNS), make, dataset=dataset, id_field="prompt_id"
    )


def _get_id(fields: Mapping[str, Any]) -> str:
    if "prompt_id" in fields:
        return get_id(fields, "prompt_id")
    return f"{get_id(fields, 'case_id')}-{get_id(fields, 'prompt_type')}"


FORMAT = Format(
    read=read_msts,
    harmful=True,
    title="MSTS",
    address="https://github.com/paul-rottger/msts-multimodal-safety",
)
