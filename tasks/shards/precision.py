"""Half precision: answers depend on their batch in the last bits, so a report says how batches were made."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from storage.records.manifest import Manifest

# Field of a result's provenance: the dtype that the loaded model computed in.
DTYPE = "dtype"
HALF = ("bfloat16", "float16")
# Field of a key if batches are fixed, and only then.
BATCH = "samples_in_each_batch"


@dataclass(frozen=True, kw_only=True)
class Precision:
    """A half precision that answers were made in, and their fixed batch size, None if batches vary."""

    dtype: str
    batch: int | None


def describe_batches(fixed_batch: int | None) -> dict[str, Any]:
    """The key content of fixed batches; empty if batch sizes follow free memory."""
    return {} if fixed_batch is None else {BATCH: fixed_batch}


def describe_dtype(dtype: object) -> str:
    """Name a torch dtype, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def gather_precision(answers: Iterable[Manifest]) -> list[Precision]:
    """List the half precisions of a run's answers."""
    found = {
        (str(manifest.provenance[DTYPE]), manifest.content.get(BATCH))
        for manifest in answers
        if manifest.provenance.get(DTYPE) in HALF
    }
    return [Precision(dtype=dtype, batch=batch) for dtype, batch in sorted(found, key=str)]


def describe_precision(found: Sequence[Precision]) -> list[str]:
    """Describe how half precision affects the answers."""
    return [
        f"Answers were made in {one.dtype}, in batches that follow free memory: in half precision, who shares a "
        "batch can change an answer's wording. reproducible: true in the spec fixes the batches."
        if one.batch is None
        else f"Answers were made in {one.dtype}, in fixed batches of {one.batch} (reproducible: true)."
        for one in found
    ]
