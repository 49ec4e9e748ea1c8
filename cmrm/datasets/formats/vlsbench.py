"""VLSBench: harmful requests whose harm lies in the image alone, in six categories.

Get `data.json` and `imgs.tar` from Hugging Face `Foreshhh/vlsbench`; GitHub `AI45Lab/VLSBench` has the former too. The
card says Apache 2.0. Unpacked, the images are `imgs/<number>.png`; give the folder `imgs` or the one that holds it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cmrm.datasets.documents import read_entries
from cmrm.datasets.fields import get_id, get_text, get_text_or_none, join_names
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample


def read_vlsbench(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a JSON list of `instruction_id`, `instruction`, `image_path`, `category` and more.

    id = `instruction_id`; the category is `category`/`sub_category`; `image_description` is the caption, and the
    context for judges. `source` and `safety_reason` are not read. The instruction decides the side of the split.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        described = get_text_or_none(fields, "image_description")
        return Sample(
            id=get_id(fields, "instruction_id"),
            dataset=dataset,
            question=get_text(fields, "instruction"),
            harmful=True,
            image=get_text(fields, "image_path"),
            caption=described,
            category=join_names(*(get_text_or_none(fields, name) for name in ("category", "sub_category"))),
            context=described,
            line=record.line,
        )

    entries = read_entries(path, dataset=dataset, containers=("list",))
    return make_samples(entries, make, dataset=dataset, id_field="instruction_id")


FORMAT = Format(
    read=read_vlsbench,
    harmful=True,
    title="VLSBench",
    address="https://huggingface.co/datasets/Foreshhh/vlsbench",
)
