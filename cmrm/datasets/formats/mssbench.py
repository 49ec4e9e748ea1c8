"""MSSBench: requests that are harmless in front of one image and harmful in front of another, for a chat and a robot.

Get `combined.json` and the folders `chat` and `embodied` from Hugging Face `kzhou35/mssbench`; licence MIT, as GitHub
`eric-ai-lab/MSSBench` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmrm.datasets.documents import open_document, read_entries
from cmrm.datasets.fields import (
    RowError,
    clean,
    content_id,
    get_text,
    get_text_or_none,
    join_names,
    name_type,
)
from cmrm.datasets.format import Format
from cmrm.datasets.rows import Record, make_samples, reject
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample


@dataclass(frozen=True, kw_only=True)
class _Side:
    """The fields of one image of an entry, safe or not: its name, its description and the requests made about it."""

    harmful: bool
    image: str
    described: str | None
    requests: str


# Of each section: its fields of a category and of what an entry's requests have in common, and its two sides.
SECTIONS: Mapping[str, tuple[str, str, tuple[_Side, _Side]]] = MappingProxyType(
    {
        "chat": (
            "Type",
            "intent",
            (
                _Side(harmful=False, image="safe_image_path", described=None, requests="queries"),
                _Side(harmful=True, image="unsafe_image_path", described="unsafe_image", requests="queries"),
            ),
        ),
        "embodied": (
            "category",
            "unsafe_instruction",
            (
                _Side(
                    harmful=False, image="safe", described="observation_safe", requests="safe_instructions"
                ),
                _Side(
                    harmful=True,
                    image="unsafe",
                    described="observation_unsafe",
                    requests="unsafe_instructions",
                ),
            ),
        ),
    }
)
_SIDE, _REQUEST, _TWIN = "<side>", "<request>", "<twin>"


def read_mssbench(path: Path, *, dataset: str) -> Iterator[Sample | Rejected]:
    """Read a JSON object of two lists: `chat` and `embodied`, an entry of which is one situation with two images.

    In `chat`, each of `queries` is asked about `safe_image_path` (harmless) and about `unsafe_image_path` (harmful). In
    `embodied`, `safe_instructions` go with the image `safe`, `unsafe_instructions` with `unsafe`. The benchmark's own
    system text before each request is left out. id = section, and a digest of request and image; the category is
    section/`Type` or section/`category`; an image's description is the caption, and the context for judges. The
    entry's `intent`, or `unsafe_instruction`, which all its requests share, decides the side of the split. Twins are a
    query of `chat` about either image, and the nth instructions of `embodied` where both images have as many. Raises
    `UserError` for a document without either list.
    """
    for section in _find_sections(path):
        entries = read_entries(path, dataset=dataset, containers=("list",), inside=(section,))
        make = partial(_make, dataset=dataset, section=section)
        yield from make_samples(_split_requests(entries, section, dataset), make, dataset=dataset)


def _find_sections(path: Path) -> list[str]:
    with open_document(path) as document:
        found = [key for key, _ in document.list_members() if key in SECTIONS]
    if not found or len(found) > len(set(found)):
        what = "neither 'chat' nor 'embodied'" if not found else f"{found[0]!r} twice"
        raise UserError(f"{path} has {what}; give MSSBench's combined.json as it was published.")
    return found


def _split_requests(
    records: Iterable[Record | Rejected], section: str, dataset: str
) -> Iterator[Record | Rejected]:
    """Split an entry into one record for each request and image."""
    for record in records:
        if isinstance(record, Rejected):
            yield record
            continue
        for side in SECTIONS[section][2]:
            requests = record.fields.get(side.requests)
            if not isinstance(requests, list) or not requests:
                found = "empty" if requests == [] else f"{name_type(requests)}, not a list of texts"
                reason = f"{section}, {record.place}: field {side.requests!r} is {found}"
                yield reject(dataset=dataset, line=record.line, reason=reason, raw=record.raw)
                continue
            for number, request in enumerate(requests):
                twin = _name_twins(record.fields, section, number)
                fields = {**record.fields, _SIDE: side, _REQUEST: request, _TWIN: twin}
                yield replace(record, fields=fields, place=f"{section}, {record.place}")


def _name_twins(fields: Mapping[str, Any], section: str, number: int) -> str | None:
    """Name the pair of the nth requests about both images by what they are; None where they are no pair."""
    parts: list[str] = []
    counts = set()
    for side in SECTIONS[section][2]:
        requests = fields.get(side.requests)
        if not isinstance(requests, list) or len(requests) <= number:
            return None
        counts.add(len(requests))
        parts += [str(fields.get(side.image)), str(requests[number])]
    return f"{section}-{content_id(clean(chr(10).join(parts)), None)}" if len(counts) == 1 else None


def _make(record: Record, *, dataset: str, section: str) -> Sample:
    fields: Mapping[str, Any] = record.fields
    category, shared, _ = SECTIONS[section]
    side: _Side = fields[_SIDE]
    if not isinstance(fields[_REQUEST], str):
        raise RowError(f"field {side.requests!r} holds {name_type(fields[_REQUEST])}, not text")
    question = get_text({side.requests: fields[_REQUEST]}, side.requests)
    image = f"{section}/{get_text(fields, side.image)}"
    described = None if side.described is None else get_text_or_none(fields, side.described)
    return Sample(
        id=f"{section}-{content_id(question, image)}",
        dataset=dataset,
        question=question,
        harmful=side.harmful,
        image=image,
        caption=described,
        category=join_names(section, get_text_or_none(fields, category)),
        context=described,
        group=get_text_or_none(fields, shared),
        twin=fields[_TWIN],
        line=record.line,
    )


FORMAT = Format(
    read=read_mssbench,
    harmful=None,
    title="MSSBench",
    address="https://huggingface.co/datasets/kzhou35/mssbench",
)
