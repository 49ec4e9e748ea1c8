"""Rows of model types that no table lists: recorded with what they made, and told in the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from storage.records.manifest import Manifest

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel

FIELD = "derived_row"


def record_row(vlm: VisionLanguageModel, *, model: str) -> dict[str, Any]:
    """Make the entry of a manifest's provenance for a model with a derived row; empty for others."""
    from cmrm.doctor.admission import describe_admission

    said = describe_admission(vlm)
    return {FIELD: {"model": model, "row": said}} if said else {}


def add_rows(models: Sequence[Mapping[str, Any]], made: Iterable[Manifest]) -> list[dict[str, Any]]:
    """Add to the records of models the derived rows with which they were read, if any, as `derived_rows`."""
    found: dict[str, set[str]] = {}
    for manifest in made:
        if (one := manifest.provenance.get(FIELD)) is not None:
            found.setdefault(one["model"], set()).add(one["row"])
    return [
        {**model, **({FIELD + "s": sorted(found[model["name"]])} if model["name"] in found else {})}
        for model in models
    ]
