"""Data sets: their formats, the screening of their rows, and the split into anchors and targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from cmrm.datasets.forbidden_questions import read_forbidden_questions
from cmrm.datasets.jsonl import read_jsonl
from cmrm.datasets.llava_bench_coco import read_llava_bench_coco
from cmrm.datasets.screening import screen
from cmrm.datasets.splits import split
from cmrm.datasets.vlsafe import read_vlsafe
from cmrm.errors import UserError
from cmrm.samples import Rejected, Sample

__all__ = ["FORMATS", "Format", "get_format", "read_dataset", "screen", "split"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a data set is read, whether its questions are harmful, and the options its reader takes.

    `files` are those of the options that name a file beside the main one.
    """

    read: Callable[..., Iterator[Sample | Rejected]]
    harmful: bool
    options: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()


FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "vlsafe": Format(read=read_vlsafe, harmful=True),
        "forbidden-questions": Format(
            read=read_forbidden_questions,
            harmful=True,
            options=frozenset(("pair_with",)),
            files=frozenset(("pair_with",)),
        ),
        "llava-bench-coco": Format(
            read=read_llava_bench_coco,
            harmful=False,
            options=frozenset(("answers", "captions")),
            files=frozenset(("answers", "captions")),
        ),
        "jsonl": Format(read=read_jsonl, harmful=True, options=frozenset(("columns", "harmful"))),
    }
)


def get_format(name: str) -> Format:
    """Find a format by its name; raises `UserError` naming the known ones."""
    try:
        return FORMATS[name]
    except KeyError:
        raise UserError(
            f"data format {name!r} is unknown; known formats: {', '.join(sorted(FORMATS))}."
        ) from None


def read_dataset(name: str, path: Path, *, dataset: str, **options: Any) -> Iterator[Sample | Rejected]:
    """Read a data set in the format `name`, row by row.

    Raises `UserError` for an unknown format or option, and, once reading begins, for a file that is missing.
    """
    chosen = get_format(name)
    if unknown := sorted(options.keys() - chosen.options):
        known = ", ".join(sorted(chosen.options)) or "no options"
        raise UserError(
            f"data set {dataset!r}: format {name!r} has no option {', '.join(map(repr, unknown))}; it takes {known}."
        )
    return chosen.read(path, dataset=dataset, **options)
