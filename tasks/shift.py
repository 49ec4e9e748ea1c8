"""Shift: Δ per block from the anchors' states, streamed from Parquet, into a safetensors file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmrm.errors import UserError
from storage.manifest import Manifest
from storage.states import read_hidden_states
from storage.store import Store
from storage.tables import read_parquet
from tasks.models import ModelUse
from tasks.stage import Job, make_stage


@dataclass(frozen=True, kw_only=True)
class ShiftJob(Job):
    """Δ for one meaningless image: pairs of embed keys, each the same slice with the image and without."""

    model: ModelUse
    image: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def stage(self) -> str:
        return "shift"

    def content(self) -> dict[str, Any]:
        return {
            "pairs": [list(pair) for pair in self.pairs],
            "direction": "image_minus_text",
            "method": "mean",
        }


def _measure(job: ShiftJob, store: Store) -> Manifest:
    import torch

    from cmrm.shift import ShiftMean, serialize_shift

    mean: ShiftMean | None = None
    for blocks, with_image, text_only in _read_pairs(job, store):
        if mean is None:
            mean = ShiftMean(blocks=blocks, hidden_size=with_image.shape[2])
        mean.add(torch.from_numpy(with_image), torch.from_numpy(text_only))
    if mean is None:
        raise UserError(
            "anchors: no anchor was embedded both ways, so there is no Δ; look at the quarantine."
        )
    shift = mean.finish(
        model=job.model.name, fingerprint=job.model.identity.fingerprint, image=job.image, anchors=job.key
    )
    return store.commit(
        job.stage,
        job.key,
        {f"shifts/{job.key}.safetensors": serialize_shift(shift)},
        rows={f"shifts/{job.key}.safetensors": len(shift.blocks)},
        content=job.content(),
        provenance={"count": shift.count, "model": job.model.name, "image": job.image},
    )


def _read_pairs(job: ShiftJob, store: Store) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    """The states of the anchors embedded both ways, shard by shard: blocks, and two arrays [n, blocks, hidden]."""
    for keys in job.pairs:
        arms = [_read_states(store, key) for key in keys]
        if not all(arm.sample_ids for arm in arms):
            continue
        # A row that one arm set aside has no pair.
        common = sorted(set(arms[0].sample_ids) & set(arms[1].sample_ids))
        with_image, text_only = (
            arm.vectors[[place[sample] for sample in common]]
            for arm in arms
            for place in [{sample: row for row, sample in enumerate(arm.sample_ids)}]
        )
        if common:
            yield arms[0].blocks, with_image, text_only


def _read_states(store: Store, key: str) -> Any:
    manifest = store.find("embed", key)
    if manifest is None:
        raise RuntimeError(f"states {key[:12]} vanished from {store.url} while the run was using them")
    return read_hidden_states(read_parquet(store.local_path(manifest.path("hidden_states"))))


measure_shift = make_stage("shift", _measure)
