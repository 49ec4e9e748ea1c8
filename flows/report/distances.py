"""How far its image moved each sample along Δ, for the samples of the report page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from storage.records.manifest import Manifest
from storage.shards.hidden_states import LAST, HiddenStates, read_last_block
from storage.shards.rows import find_files, need_manifest
from storage.sql.shifts import shift_rows
from storage.store import Store
from tasks.core.stage_name import StageName

SampleKey = tuple[str, str]


def measure_distances(store: Store, used: Mapping[str, Sequence[str]]) -> dict[SampleKey, float]:
    """Measure (h_image − h_text) · Δ / |Δ| at the last block of plain states, by data set and sample.

    Δ is the first of the run, and states are those of its targets; empty where the run has several models, or lacks
    Δ or states of either prompt. Raises `StoreError` if a file is missing.
    """
    shifts = [need_manifest(store, StageName.SHIFT, key) for key in used.get(StageName.SHIFT, ())]
    if not shifts or len({one.provenance.get("model") for one in shifts}) > 1:
        return {}
    states = list(_find_states(store, used.get(StageName.EXTRACT_STATES, ())))
    found: dict[SampleKey, float] = {}
    for dataset in dict.fromkeys(one.provenance["dataset"] for one in states):
        own = [one for one in states if one.provenance["dataset"] == dataset]
        text, image = (_read(store, own, condition) for condition in ("query", "image"))
        found |= {
            (dataset, sample): value for sample, value in _measure(store, shifts[0], text, image).items()
        }
    return found


def _find_states(store: Store, keys: Sequence[str]) -> Iterator[Manifest]:
    """Find the plain states of targets at the last prompt token."""
    for key in keys:
        manifest = need_manifest(store, StageName.EXTRACT_STATES, key)
        plain = not manifest.content["intervention_name"] and manifest.content["position"] == LAST
        if plain and manifest.provenance["split"] == "target":
            yield manifest


def _read(store: Store, states: Sequence[Manifest], condition: str) -> list[HiddenStates]:
    """Read the shards of a condition."""
    return [
        read_last_block(find_files(store, one, "hidden_states"))
        for one in states
        if one.content["condition"] == condition
    ]


def _measure(
    store: Store, shift: Manifest, text: Sequence[HiddenStates], image: Sequence[HiddenStates]
) -> dict[str, float]:
    blocks = {block for one in (*text, *image) for block in one.blocks}
    if len(blocks) != 1 or not text or not image:
        return {}
    deltas = {row["block"]: row["vector"].astype(np.float64) for row in shift_rows(store, shift)}
    delta = deltas.get(blocks.pop())
    if delta is None or not (length := float(np.linalg.norm(delta))):
        return {}
    along, before = (
        {
            sample: float(vector[0].astype(np.float64) @ delta / length)
            for one in shards
            for sample, vector in zip(one.sample_ids, one.vectors, strict=True)
        }
        for shards in (image, text)
    )
    return {sample: along[sample] - before[sample] for sample in along if sample in before}
