"""Find the folders of the images that a run's samples have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from flows.spec.spec import Spec, check_spec
from storage.store import Store
from tasks.data.sources import find_image_folder


def find_own_images(spec: Spec, dataset: str, *, store: str) -> Path | None:
    """Find the local folder of a data set's own images."""
    folder = spec.datasets[dataset].images
    return find_image_folder(folder if isinstance(folder, Path) else None, store=store, dataset=dataset)


def find_run_images(
    store: Store, record: Mapping[str, Any], datasets: Iterable[str]
) -> dict[str, Path | None]:
    """Find the folders of a finished run's images by data set, given its record; None for a data set without any.

    Raises `UserError` for a spec that this release cannot read.
    """
    spec = check_spec(record["spec"], where=f"run {record['run_id']}: its spec")
    return {
        name: find_own_images(spec, name, store=store.url)
        if name in spec.datasets
        else find_image_folder(None, store=store.url, dataset=name)
        for name in dict.fromkeys(datasets)
    }
