"""Read shifts Δ from safetensors files as rows for SQL."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from storage.errors import StoreError
from storage.records.manifest import Manifest
from storage.store import Store

log = logging.getLogger("cmrm.storage")


def shift_rows(store: Store, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Read the shifts that a manifest names: one row per block, with the file's metadata.

    Expects a tensor `delta` [blocks, hidden] and, if not every block from 0 is there, `blocks` [blocks].
    A file with other content is skipped and logged. What steers a model is read by `cmrm.load_shift` instead, which
    refuses a file whose direction or schema version is not its own.
    """
    for path in manifest.paths("shifts"):
        if not path.endswith(".safetensors"):
            continue
        try:
            yield from _read_rows(manifest.key, store.local_path(path))
        except (StoreError, SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is left out of the shifts: %s", path, error)


def _read_rows(key: str, path: Path) -> list[dict[str, Any]]:
    with safe_open(path, framework="np") as file:
        words = dict(sorted((file.metadata() or {}).items()))
        delta = np.asarray(file.get_tensor("delta"), np.float32)
        blocks = file.get_tensor("blocks") if "blocks" in file.keys() else np.arange(len(delta))  # noqa: SIM118 - a file is no mapping
    if delta.ndim != 2 or blocks.shape != delta.shape[:1]:
        raise StoreError(
            f"delta has shape {delta.shape} and blocks {blocks.shape}, not [blocks, hidden] and [blocks]"
        )
    count = words.get("count", "")
    return [
        {
            "key": key,
            "model": words.get("model"),
            "block": int(block),
            "level": words.get("level", "dataset"),
            "direction": words.get("direction"),
            "image": words.get("image"),
            "part": words.get("part", "all"),
            "convention": words.get("convention"),
            "count": int(count) if count.isdigit() else None,
            "vector": vector,
            "metadata": words,
        }
        for block, vector in zip(blocks, delta, strict=True)
    ]
