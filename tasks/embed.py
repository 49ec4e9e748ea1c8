"""Embed: the states of a shard's samples under one condition, at every block, into Parquet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.manifest import Manifest
from storage.states import hidden_states_table
from storage.store import Store
from tasks.batches import Finished, work_through
from tasks.models import ModelUse, load_model_once
from tasks.prompts import Showing, Shown, prepare_batch, quarantine_row
from tasks.samples import Slice
from tasks.stage import Job, make_stage
from tasks.steering import Steering, intervene

if TYPE_CHECKING:
    from cmrm.model import VisionLanguageModel

POSITION = "last"


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """One slice of the samples, embedded by one model as it is, or while it is steered."""

    slice: Slice
    model: ModelUse
    showing: Showing
    steering: Steering | None = None
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
            "intervention": None if self.steering is None else self.steering.content(self.showing),
            "intervention_name": "" if self.steering is None else self.steering.name,
        }


def _embed(job: EmbedJob, store: Store) -> Manifest:
    samples = job.slice.shard.read(store, job.slice.condition)
    vlm = load_model_once(job.model)
    return work_through(
        job,
        store,
        kind="hidden_states",
        samples=samples,
        batch_size=job.batch_size,
        prepare=lambda batch: prepare_batch(vlm, job.showing, batch, job.slice.condition, stage=job.stage),
        finish=lambda batches: (_embed_batch(job, vlm, shown) for shown in batches),
        partitions={"model": job.model.name, "condition": job.slice.condition},
        provenance={
            "device": str(vlm.device),
            "dataset": job.slice.shard.dataset,
            "split": job.slice.shard.split,
        },
    )


def _embed_batch(job: EmbedJob, vlm: VisionLanguageModel, shown: Shown) -> Finished:
    blocks = range(len(vlm.blocks))
    shown, vectors = _read_states(job, vlm, shown, blocks)
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
        intervention="" if job.steering is None else job.steering.name,
        alpha=None if job.steering is None else job.steering.alpha,
    )
    return table, [*shown.quarantined, *aside]


def _read_states(
    job: EmbedJob, vlm: VisionLanguageModel, shown: Shown, blocks: range
) -> tuple[Shown, np.ndarray]:
    """The states of a batch as float16 [samples, blocks, hidden], and which of its samples they are of."""
    from cmrm.capture import embed
    from cmrm.steering import embed_steered

    nothing: np.ndarray = np.empty((0, len(blocks), vlm.hidden_size), dtype=np.float16)
    if not shown.samples:
        return shown, nothing
    if job.steering is None:
        states = embed(vlm, shown.prompts, blocks=blocks)
    else:
        shown, intervention = intervene(
            job.steering, store=job.store, vlm=vlm, showing=job.showing, shown=shown, stage=job.stage
        )
        if intervention is None:
            return shown, nothing
        states = embed_steered(vlm, shown.prompts, blocks=blocks, intervention=intervention)
    return shown, states.cpu().numpy().astype(np.float16)


def _explain(finite: np.ndarray) -> str:
    return f"the state at block {int(np.argmin(finite))} under this condition is not a finite float16 number"


embed_anchors = make_stage("embed", _embed, place="devices")
