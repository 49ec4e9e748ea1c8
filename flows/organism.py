"""The embedded model in specs: its names and paths turned into places on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cmrm.organism.places import resolve_organism_model, resolve_organism_path
from flows.model_sections import ModelSpec
from flows.sections import DatasetSpec
from flows.spec import PATH_FIELDS, Spec
from storage.errors import explained
from storage.paths import cache_folder


def place_organism(spec: Spec) -> Spec:
    """Replace `organism` models and `organism://` paths by real ones; other specs pass as they are.

    The data sets are written into the user's cache unless they are there: they can be had again, and a store holds
    what runs made. Raises `UserError` for a path that they do not hold.
    """
    folder = cache_folder()
    with explained("write", str(folder)):
        datasets = {name: _place_dataset(dataset, folder) for name, dataset in spec.datasets.items()}
    return spec.model_copy(
        update={
            "datasets": datasets,
            "model": spec.model and _place_model(spec.model),
            "models": [_place_model(model) for model in spec.models],
        }
    )


def _place_model(model: ModelSpec) -> ModelSpec:
    place = None if Path(model.id).is_dir() else resolve_organism_model(model.id)
    if place is None:
        return model
    return model.model_copy(update={"id": str(place), "name": model.name or model.id})


def _place_dataset(dataset: DatasetSpec, folder: Path) -> DatasetSpec:
    update: dict[str, Any] = {
        field: place
        for field in PATH_FIELDS
        if (value := getattr(dataset, field)) is not None
        and (place := resolve_organism_path(str(value), folder)) is not None
    }
    return dataset.model_copy(update=update)
