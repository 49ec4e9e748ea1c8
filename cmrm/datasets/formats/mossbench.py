"""MOSSBench: 300 harmless requests whose images make a cautious model refuse.

Get `images_information/information.json` and the images from GitHub `xirui-li/MOSSBench` (folder `data`) or
Hugging Face `AIcell/MOSSBench`; licence CC BY-SA 4.0, for testing and not for training.
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


def read_mossbench(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a JSON list, or an object by number, of `image`, `short description`, `question`, `pid`, `metadata`.

    id = `pid`, or the number where there is none; the caption is the short description, which the published file cuts
    at 150 characters; the category is `metadata.over`, the kind of oversensitivity. The image is named
    `images/<number>.png` and found with or without that folder, and with another suffix (`screening`).
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        return Sample(
            id=get_id(fields, "pid" if fields.get("pid") is not None else KEY),
            dataset=dataset,
            question=get_text(fields, "question"),
            harmful=False,
            image=get_text(fields, "image"),
            caption=get_text_or_none(fields, "short description"),
            category=_get_kind(fields),
            line=record.line,
        )

    entries = read_entries(path, dataset=dataset, containers=("list", "object"))
    return make_samples(entries, make, dataset=dataset, id_field="pid")


def _get_kind(fields: Mapping[str, Any]) -> str | None:
    metadata = fields.get("metadata")
    if metadata is None:
        return None
    if not isinstance(metadata, dict):
        raise RowError(f"field 'metadata' is {name_type(metadata)}, not an object")
    return get_text_or_none(metadata, "over")


FORMAT = Format(
    read=read_mossbench,
    harmful=False,
    title="MOSSBench",
    address="https://github.com/xirui-li/MOSSBench",
)
