"""HoliSafe-Bench: images and queries in all five combinations of safe and unsafe.

Get `holisafe_bench.json` and the folder `images` from Hugging Face `etri-vilab/holisafe-bench` (access on request; its
licence stands there).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from cmrm.datasets.documents import read_entries
from cmrm.datasets.fields import RowError, cut, get_id, get_text, get_text_or_none, join_names
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples
from cmrm.prompts.sample import Rejected, Sample

# Image, query, and the two together: safe or unsafe.
TYPES: Mapping[str, bool] = MappingProxyType(
    {"SSS": False, "SSU": True, "SUU": True, "USU": True, "UUU": True}
)


def read_holisafe(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a JSON list of `id`, `image`, `query`, `type`, `category`, `subcategory`.

    `type` says in three letters whether the image, the query and both together are safe (S) or unsafe (U): harmful is
    what ends in U. The category is type/category/subcategory, so that anchors come from every combination. `image` is a
    path in the folder `images`. `image_safe` and `image_safety_label` are not read. The query decides the side of the
    split.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        kind = get_text(fields, "type").strip().upper()
        if kind not in TYPES:
            raise RowError(f"field 'type' is {cut(kind)!r}, none of {', '.join(TYPES)}")
        return Sample(
            id=get_id(fields, "id"),
            dataset=dataset,
            question=get_text(fields, "query"),
            harmful=TYPES[kind],
            image=get_text(fields, "image"),
            category=join_names(kind, *(get_text_or_none(fields, f"{one}category") for one in ("", "sub"))),
            line=record.line,
        )

    entries = read_entries(path, dataset=dataset, containers=("list",))
    return make_samples(entries, make, dataset=dataset, id_field="id")


FORMAT = Format(
    read=read_holisafe,
    harmful=None,
    title="HoliSafe-Bench",
    address="https://huggingface.co/datasets/etri-vilab/holisafe-bench",
)
