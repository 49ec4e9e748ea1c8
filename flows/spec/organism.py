"""Resolve the embedded model's names and `organism://` paths in a spec to local paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmrm.organism.places import resolve_organism_model, resolve_organism_path
from cmrm.untrusted.regular_file import is_folder
from flows.spec.captions import CaptionsSpec
from flows.spec.model_sections import ModelSpec
from flows.spec.paths import PATH_FIELDS
from flows.spec.sections import DatasetSpec
from flows.spec.spec import Spec
from storage.backends.writable import naming_variable
from storage.records.layout import cache_folder


def place_organism(spec: Spec) -> Spec:
    """Replace `organism` models and `organism://` paths by local ones; other specs are returned unchanged.

    The data sets are written to the user's cache and not to a store, since they can be regenerated. Raises `UserError`
    for an unknown `organism://` path.
    """
    return spec.model_copy(
        update={
            "datasets": {name: place_dataset(dataset) for name, dataset in spec.datasets.items()},
            "model": spec.model and place_organism_model(spec.model),
            "models": [place_organism_model(model) for model in spec.models],
            "captions": spec.captions and _place_captioner(spec.captions),
        }
    )


def place_organism_model(model: ModelSpec) -> ModelSpec:
    """Replace a model of the embedded ones by its folder, under its own name; others are returned unchanged."""
    folder = None if is_folder(Path(model.id)) else resolve_organism_model(model.id)
    if folder is None:
        return model
    return model.model_copy(update={"id": str(folder), "name": model.name or model.id})


def _place_captioner(captions: CaptionsSpec) -> CaptionsSpec:
    return captions.model_copy(update={"by": captions.by and place_organism_model(captions.by)})


def place_dataset(dataset: DatasetSpec) -> DatasetSpec:
    """Replace `organism://` paths of a data set by local ones; raises `UserError` as `place_organism` does."""
    folder = cache_folder()
    with naming_variable("CMRM_CACHE", folder):
        update: dict[str, Any] = {
            field: path
            for field in PATH_FIELDS
            if (value := getattr(dataset, field)) is not None
            and (path := resolve_organism_path(str(value), folder)) is not None
        }
    return dataset.model_copy(update=update)
