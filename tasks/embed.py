"""Embed: the states of a shard's samples under one condition, at every block, into Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.manifest import Manifest
from storage.states import hidden_states_table
from storage.store import Store
from tasks.batches import Finished, commit_rows, work_through
from tasks.models import ModelUse, load_model_once
from tasks.prompts import Showing, prepare_batch, quarantine_row
from tasks.samples import Slice, StoredSample
from tasks.stage import Job, make_stage

if TYPE_CHECKING:
    from cmrm.model import VisionLanguageModel

POSITION = "last"


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """One slice of the anchors, embedded by one model."""

    slice: Slice
    model: ModelUse
    showing: Showing
    batch_size: int

    @property
    def stage(self) -> str:
        return "embed"

    def content(self) -> dict[str, Any]:
        return {
            **self.model.content(),
            "condition": self.slice.condition,
            "image": self.showing.content(self.slice.condition),
            "samples": self.slice.digest,
            "blocks": "all",
            "position": POSITION,
            "states": "float16",
        }


def _embed(job: EmbedJob, store: Store) -> Manifest:
    samples = job.slice.shard.read(store, job.slice.condition)
    vlm = load_model_once(job.model)
    rows, quarantined = work_through(
        job,
        store,
        kind="hidden_states",
        ids=("sample_id", "block"),
        samples=samples,
        batch_size=job.batch_size,
        finish=lambda batch: _embed_batch(job, vlm, batch),
    )
    return commit_rows(
        job,
        store,
        kind="hidden_states",
        rows=rows,
        quarantined=quarantined,
        partitions={"model": job.model.name, "condition": job.slice.condition},
        provenance={
            "batch_size": job.batch_size,
            "device": str(vlm.device),
            "dataset": job.slice.shard.dataset,
            "split": job.slice.shard.split,
        },
    )


def _embed_batch(job: EmbedJob, vlm: VisionLanguageModel, batch: Sequence[StoredSample]) -> Finished:
    from cmrm.capture import embed

    blocks = range(len(vlm.blocks))
    shown = prepare_batch(vlm, job.showing, batch, job.slice.condition, stage=job.stage)
    if not shown.samples:
        vectors = np.empty((0, len(blocks), vlm.hidden_size), dtype=np.float16)
    else:
        vectors = embed(vlm, shown.prompts, blocks=blocks).cpu().numpy().astype(np.float16)
    finite: np.ndarray = np.asarray(np.isfinite(vectors).all(axis=2))
    kept: np.ndarray = np.asarray(finite.all(axis=1))
    aside = [
        quarantine_row(stored, stage=job.stage, reason=_explain(finite[row]))
        for row, stored in enumerate(shown.samples)
        if not kept[row]
    ]
    table = hidden_states_table(
        model=job.model.name,
        dataset=job.slice.shard.dataset,
        sample_ids=[stored.sample.id for stored, keep in zip(shown.samples, kept, strict=True) if keep],
        condition=job.slice.condition,
        blocks=blocks,
        vectors=vectors[kept],
        position=POSITION,
    )
    return table, [*shown.quarantined, *aside]


def _explain(finite: np.ndarray) -> str:
    return f"the state at block {int(np.argmin(finite))} under this condition is not a finite float16 number"


embed_anchors = make_stage("embed", _embed)
