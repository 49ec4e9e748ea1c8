"""Shifts in safetensors files, as rows."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from storage.errors import StoreError
from storage.manifest import Manifest
from storage.store import Store

log = logging.getLogger("cmrm.storage")


def shift_rows(store: Store, manifest: Manifest) -> Iterator[dict[str, Any]]:
    """Read the shifts that a manifest names: one row per block, with the file's own words about itself.

    Expects a tensor `delta` [blocks, hidden] and, if not every block from 0 is there, `blocks` [blocks].
    A file that holds something else is left out, and the log says why.
    """
    for path in manifest.paths("shifts"):
        if not path.endswith(".safetensors"):
            continue
        try:
            yield from _rows(manifest.key, store.read(path))
        except (StoreError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is left out of the shifts: %s", path, error)


def _rows(key: str, data: bytes) -> list[dict[str, Any]]:
    tensors = safetensors.numpy.load(data)
    words = _metadata(data)
    delta = np.asarray(tensors["delta"], np.float32)
    blocks = tensors.get("blocks", np.arange(len(delta)))
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
            "convention": words.get("convention"),
            "count": int(count) if count.isdigit() else None,
            "vector": vector,
            "metadata": words,
        }
        for block, vector in zip(blocks, delta, strict=True)
    ]


def _metadata(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    words = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    return {str(name): str(word) for name, word in sorted(words.items())}
