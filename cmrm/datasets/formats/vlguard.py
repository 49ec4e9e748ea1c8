"""VLGuard: images that are safe or not, with requests that are safe or not.

Get `train.json` or `test.json` and the zipped images from Hugging Face `ys-zong/VLGuard` (access on request) or GitHub
`ys-zong/VLGuard`; its card says MIT, and whoever asks for access agrees to use it for research only.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmrm.datasets.documents import read_entries
from cmrm.datasets.fields import RowError, get_id, get_text, get_text_or_none, join_names, name_type
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples, reject
from cmrm.prompts.sample import Rejected, Sample

# By the instruction's key: whether it is harmful, and upstream's subset as the category of samples without one.
KINDS: Mapping[str, tuple[bool, str]] = MappingProxyType(
    {
        "safe_instruction": (False, "safe_safes"),
        "unsafe_instruction": (True, "safe_unsafes"),
        "instruction": (True, "unsafes"),
    }
)


def read_vlguard(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a JSON list of `id`, `image`, `safe`, `harmful_category`, `harmful_subcategory`, `instr-resp`.

    `instr-resp` lists `{safe_instruction, response}` and `{unsafe_instruction, response}` for a safe image and
    `{instruction, response}` for an unsafe one: a harmless sample `<id>-safe` and harmful ones `<id>-unsafe`, each with
    the response as reference. The category is category/subcategory, or, for a safe image, upstream's name of the
    subset: safe_safes or safe_unsafes. The two instructions of a safe image are twins. Where `id` is missing, the
    image's name without suffix stands for it.
    """

    def make(record: Record) -> Sample:
        fields = record.fields
        image = get_text(fields, "image")
        kind = _get_kind(fields)
        harmful, subset = KINDS[kind]
        identity = get_id(fields, "id") if fields.get("id") is not None else str(Path(image).with_suffix(""))
        category = (get_text_or_none(fields, f"harmful_{name}") for name in ("category", "subcategory"))
        return Sample(
            id=f"{identity}-{'unsafe' if harmful else 'safe'}",
            dataset=dataset,
            question=get_text(fields, kind),
            harmful=harmful,
            image=image,
            category=join_names(*category) or subset,
            reference=get_text_or_none(fields, "response"),
            twin=identity if fields["safe"] else None,
            line=record.line,
        )

    records = _split_pairs(read_entries(path, dataset=dataset, containers=("list",)), dataset)
    return make_samples(records, make, dataset=dataset, id_field="id")


def _split_pairs(records: Iterable[Record | Rejected], dataset: str) -> Iterator[Record | Rejected]:
    """Split an image's entry into one record for each instruction."""
    for record in records:
        if isinstance(record, Rejected):
            yield record
            continue
        pairs = record.fields.get("instr-resp")
        if not isinstance(pairs, list) or not pairs:
            found = "empty" if pairs == [] else f"{name_type(pairs)}, not a list of instructions"
            reason = f"{record.place}: field 'instr-resp' is {found}"
            yield reject(dataset=dataset, line=record.line, reason=reason, raw=record.raw)
            continue
        for pair in pairs:
            fields = {**record.fields, **(pair if isinstance(pair, dict) else {})}
            yield dataclasses.replace(record, fields=fields)


def _get_kind(fields: Mapping[str, Any]) -> str:
    safe = fields.get("safe")
    if not isinstance(safe, bool):
        raise RowError(f"field 'safe' is {name_type(safe)}, neither true nor false")
    allowed = ("safe_instruction", "unsafe_instruction") if safe else ("instruction",)
    found = [name for name in allowed if fields.get(name) is not None]
    if len(found) != 1:
        raise RowError(
            f"an entry of 'instr-resp' has {len(found)} of the fields {' and '.join(allowed)}, not one"
        )
    return found[0]


FORMAT = Format(
    read=read_vlguard,
    harmful=None,
    title="VLGuard",
    address="https://huggingface.co/datasets/ys-zong/VLGuard",
)
