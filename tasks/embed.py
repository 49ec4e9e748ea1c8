"""Embed: the states of a shard's samples under one condition, at every block, into Parquet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from storage.manifest import Manifest
from storage.states import hidden_states_table
from storage.store import Store
from tasks.batches import Finished, measure_beside, work_through
from tasks.models import ModelUse, load_model_once
from tasks.prompts import Showing, Shown, prepare_batch, quarantine_row
from tasks.samples import Slice, StoredSample
from tasks.sizes import choose_batch_size
from tasks.stage import Job, make_stage
from tasks.steering import Steering, intervene

if TYPE_CHECKING:
    from cmrm.model import VisionLanguageModel
    from cmrm.offload import Arriving
    from cmrm.prefix import Prefixes
    from cmrm.renderer import Renderer

POSITION = "last"


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """One slice of the samples, embedded by one model as it is, or while it is steered."""

    slice: Slice
    model: ModelUse
    showing: Showing
    steering: Steering | None = None
    # None for as many as are best.
    batch_size: int | None

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
            # What the model computed, without loss: components beyond float16's 65,504 are ordinary in Gemma 3.
            "states": "float32",
            "intervention": None if self.steering is None else self.steering.content(self.showing),
            "intervention_name": "" if self.steering is None else self.steering.name,
        }


def _embed(job: EmbedJob, store: Store) -> Manifest:
    from cmrm.prefix import Prefixes
    from cmrm.renderer import Renderer

    samples = job.slice.shard.read(store, job.slice.condition)
    vlm = load_model_once(job.model)
    prefixes, renderer = Prefixes(vlm), Renderer(vlm)
    return work_through(
        job,
        store,
        kind="hidden_states",
        samples=samples,
        asked=(stored.sample.id for stored in samples),
        length=measure_beside(samples, job.slice.condition),
        batch_size=job.batch_size
        or choose_batch_size(renderer, job.showing, job.slice.condition, samples, prefixes),
        prepare=partial(_prepare, job, renderer),
        finish=lambda batches: _embed_batches(job, vlm, prefixes, batches),
        partitions={"model": job.model.name, "condition": job.slice.condition},
        rows_each=len(vlm.blocks),
        provenance={
            "device": str(vlm.device),
            "dataset": job.slice.shard.dataset,
            "split": job.slice.shard.split,
        },
    )


def _prepare(job: EmbedJob, renderer: Renderer, batch: Sequence[StoredSample]) -> Shown:
    return prepare_batch(renderer, job.showing, batch, job.slice.condition, stage=job.stage)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A batch whose states, [samples, blocks, hidden] in the model's dtype, are on their way from the device."""

    shown: Shown
    states: Arriving | None

    @property
    def is_there(self) -> bool:
        return self.states is None or self.states.is_there


def _embed_batches(
    job: EmbedJob, vlm: VisionLanguageModel, prefixes: Prefixes, batches: Iterator[Shown]
) -> Iterator[Finished]:
    """Read batch after batch; while the states of one are on their way, the device has the next."""
    under_way: deque[_Read] = deque()
    while True:
        try:
            shown = next(batches, None)
            if shown is None:
                break
            under_way.append(_read_states(job, vlm, prefixes, shown))
        except BaseException:
            # What came before an error is kept.
            for read in under_way:
                yield _conclude(job, vlm, read)
            raise
        while len(under_way) > 1 or (under_way and under_way[0].is_there):
            yield _conclude(job, vlm, under_way.popleft())
    for read in under_way:
        yield _conclude(job, vlm, read)


def _read_states(job: EmbedJob, vlm: VisionLanguageModel, prefixes: Prefixes, shown: Shown) -> _Read:
    from cmrm.capture import embed
    from cmrm.offload import send_to_host
    from cmrm.steering import embed_steered

    blocks = range(len(vlm.blocks))
    if not shown.samples:
        return _Read(shown=shown, states=None)
    if job.steering is None:
        states = embed(vlm, shown.prompts, blocks=blocks, prefixes=prefixes, rendered=shown.rendered)
    else:
        shown, intervention = intervene(
            job.steering,
            store=job.store,
            vlm=vlm,
            showing=job.showing,
            shown=shown,
            stage=job.stage,
            prefixes=prefixes,
        )
        if intervention is None:
            return _Read(shown=shown, states=None)
        states = embed_steered(vlm, shown.prompts, blocks=blocks, intervention=intervention)
    # The rendered prompts are read; kept with the states, they would hold the device's memory for a batch longer.
    return _Read(shown=replace(shown, rendered=None), states=send_to_host(states))


def _conclude(job: EmbedJob, vlm: VisionLanguageModel, read: _Read) -> Finished:
    """The rows of a batch, and those set aside."""
    blocks = range(len(vlm.blocks))
    vectors: np.ndarray = (
        np.empty((0, len(blocks), vlm.hidden_size), dtype=np.float32)
        if read.states is None
        else read.states.wait().float().numpy()
    )
    samples = read.shown.samples
    finite: np.ndarray = np.asarray(np.isfinite(vectors).all(axis=2))
    kept: np.ndarray = np.asarray(finite.all(axis=1))
    aside = [
        quarantine_row(stored, stage=job.stage, reason=_explain(finite[row]))
        for row, stored in enumerate(samples)
        if not kept[row]
    ]
    table = hidden_states_table(
        model=job.model.name,
        dataset=job.slice.shard.dataset,
        sample_ids=[stored.sample.id for stored, keep in zip(samples, kept, strict=True) if keep],
        condition=job.slice.condition,
        blocks=blocks,
        vectors=vectors[kept],
        position=POSITION,
        intervention="" if job.steering is None else job.steering.name,
        alpha=None if job.steering is None else job.steering.alpha,
    )
    return table, [*read.shown.quarantined, *aside]


def _explain(finite: np.ndarray) -> str:
    return (
        f"the state at block {int(np.argmin(finite))} under this condition is not finite; with dtype float16, use "
        "bfloat16 or float32"
    )


embed_anchors = make_stage("embed", _embed, place="devices")
