"""Extract hidden states of a shard's samples under one condition, at every block and one position, into Parquet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from cmrm.prompts.conditions import CONTROLS, TEXT_ONLY, Condition
from cmrm.steering.settings import IMAGE_POSITIONS, Position
from storage.records.manifest import Manifest
from storage.shards.hidden_states import LAST, hidden_states_table
from storage.store import Store
from tasks.core.models import ModelUse, load_model_once
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.shards.batch_size import choose_batch_size, choose_rows
from tasks.shards.derived_rows import record_row
from tasks.shards.precision import DTYPE, describe_batches, describe_dtype
from tasks.shards.prompts import PromptBuilder, Shown, prepare_batch, quarantine_row
from tasks.shards.run_shard import Finished, measure_beside, work_through
from tasks.shards.samples import Slice, StoredSample
from tasks.shards.stimuli import STIMULI, check_stimuli, fit_images
from tasks.states.intervene import intervene
from tasks.states.steering import SingleUse, describe_model, list_meaningless

if TYPE_CHECKING:
    from cmrm.decoding.positions import PositionReader
    from cmrm.decoding.scheduler import Arriving
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.planner import Prefixes
    from cmrm.prefix.renderer import Renderer

FIRST_ANSWER: Position = "first_answer"


@dataclass(frozen=True, kw_only=True)
class EmbedJob(Job):
    """Hidden states of one shard under one condition, from one model, plain or steered.

    Each position is a job of its own: a run that asks for more of them keeps the states that it has, and what depends
    on them.
    """

    slice: Slice
    model: ModelUse
    showing: PromptBuilder
    steering: SingleUse | None = None
    position: Position = LAST
    # None chooses it automatically.
    batch_size: int | None
    # Size of fixed batches, with the same samples each time; None where batches follow free memory.
    fixed_batch: int | None = None

    @property
    def stage(self) -> StageName:
        return StageName.EXTRACT_STATES

    def content(self) -> dict[str, Any]:
        return {
            **describe_model(self.model, self.slice.condition, self.steering),
            "condition": self.slice.condition,
            "image": self.showing.content(self.slice.condition),
            "samples": self.slice.digest,
            "blocks": "all",
            "position": self.position,
            # What the model computed, without loss: components beyond float16's 65,504 are common in Gemma 3.
            "states": "float32",
            "intervention": None if self.steering is None else self.steering.content(self.showing),
            "intervention_name": "" if self.steering is None else self.steering.name,
            **describe_batches(self.fixed_batch),
        }


def list_further(positions: Sequence[Position], condition: Condition) -> tuple[Position, ...]:
    """List those of some positions, besides the last prompt token, that prompts have under a condition."""
    shown = condition not in TEXT_ONLY and condition not in CONTROLS
    return tuple(one for one in positions if one != LAST and (shown or one not in IMAGE_POSITIONS))


def _extract(job: EmbedJob, store: Store) -> Manifest:
    from cmrm.prefix.planner import Prefixes

    samples = job.slice.shard.read(store, job.slice.condition)
    vlm = load_model_once(job.model)
    shown = list_meaningless(job.slice.condition, job.steering)
    job = replace(job, showing=fit_images(job.showing, vlm, shown))
    stimuli = check_stimuli(job.showing, vlm, shown, model=job.model.name)
    prefixes, renderer = Prefixes(vlm), _make_renderer(job, vlm)
    reader = _make_reader(job, vlm, prefixes)
    return work_through(
        job,
        store,
        kind="hidden_states",
        samples=samples,
        asked=(stored.sample.id for stored in samples),
        length=measure_beside(samples, job.slice.condition),
        batch_size=job.fixed_batch or job.batch_size or _choose_size(job, renderer, samples, prefixes),
        fixed_batch=job.fixed_batch,
        prepare=partial(_prepare, job, renderer),
        finish=lambda batches: _extract_batches(job, vlm, reader, batches),
        probe=partial(_extract_alone, job, vlm),
        partitions={"model": job.model.name, "condition": job.slice.condition},
        rows_each=len(vlm.blocks),
        provenance={
            "device": str(vlm.device),
            DTYPE: describe_dtype(vlm.model.dtype),
            **record_row(vlm, model=job.model.name),
            "dataset": job.slice.shard.dataset,
            "split": job.slice.shard.split,
            **({STIMULI: stimuli} if stimuli else {}),
        },
    )


def _make_renderer(job: EmbedJob, vlm: VisionLanguageModel) -> Renderer:
    from cmrm.prefix.renderer import Renderer

    return Renderer(vlm, beyond=int(job.position == FIRST_ANSWER))


def _make_reader(job: EmbedJob, vlm: VisionLanguageModel, prefixes: Prefixes) -> PositionReader:
    from cmrm.decoding.positions import PositionReader

    return PositionReader(vlm, blocks=range(len(vlm.blocks)), positions=[job.position], prefixes=prefixes)


def _choose_size(
    job: EmbedJob, renderer: Renderer, samples: Sequence[StoredSample], prefixes: Prefixes
) -> int:
    shown = (renderer, job.showing, job.slice.condition, samples, prefixes)
    size = choose_batch_size(*shown)
    if job.position != FIRST_ANSWER:
        return size
    # The keys and values of all blocks are kept until the answer's first token is fed.
    return min(size, choose_rows(*shown, arms=1, alone=0, requests=1, max_new_tokens=1))


def _prepare(job: EmbedJob, renderer: Renderer, batch: Sequence[StoredSample]) -> Shown:
    return prepare_batch(renderer, job.showing, batch, job.slice.condition, stage=job.stage)


@dataclass(frozen=True, kw_only=True)
class _Read:
    """A batch whose states, float32 [samples, blocks, hidden], are being copied from the device."""

    shown: Shown
    states: Arriving | None

    @property
    def is_there(self) -> bool:
        return self.states is None or self.states.is_there


def _extract_batches(
    job: EmbedJob, vlm: VisionLanguageModel, reader: PositionReader, batches: Iterator[Shown]
) -> Iterator[Finished]:
    """Run batch after batch; the states of one are copied to the host while the device runs the next."""
    in_flight: deque[_Read] = deque()
    while True:
        try:
            shown = next(batches, None)
            if shown is None:
                break
            if job.fixed_batch is not None:
                # A prefix cached by another batch, which a resumed run lacks, must not change this one.
                reader.forget()
            in_flight.append(_read_states(job, vlm, reader, shown))
        except BaseException:
            # Batches finished before an error are kept.
            for read in in_flight:
                yield _conclude(job, vlm, read)
            raise
        while len(in_flight) > 1 or (in_flight and in_flight[0].is_there):
            yield _conclude(job, vlm, in_flight.popleft())
    for read in in_flight:
        yield _conclude(job, vlm, read)


def _extract_alone(job: EmbedJob, vlm: VisionLanguageModel, stored: StoredSample) -> None:
    """Extract one sample's states, without a cached prefix, to see whether the model fails on it."""
    from cmrm.prefix.planner import Prefixes

    shown = _prepare(job, _make_renderer(job, vlm), [stored])
    _conclude(job, vlm, _read_states(job, vlm, _make_reader(job, vlm, Prefixes(vlm)), shown))


def _read_states(job: EmbedJob, vlm: VisionLanguageModel, reader: PositionReader, shown: Shown) -> _Read:
    from cmrm.decoding.scheduler import send_to_host

    if not shown.samples:
        return _Read(shown=shown, states=None)
    if job.steering is None:
        states = reader.read(shown.prompts, rendered=shown.rendered)
    else:
        shown, acting = intervene(
            job.steering,
            store=job.store,
            vlm=vlm,
            showing=job.showing,
            shown=shown,
            stage=job.stage,
            prefixes=reader.prefixes,
        )
        if not shown.samples:
            return _Read(shown=shown, states=None)
        states = reader.read(shown.prompts) if acting is None else reader.read_steered(shown.prompts, acting)
    # The rendered prompts were used; kept with the states, they would occupy device memory for another batch.
    return _Read(shown=replace(shown, rendered=None), states=send_to_host(states[:, 0]))


def _conclude(job: EmbedJob, vlm: VisionLanguageModel, read: _Read) -> Finished:
    """The rows of a batch, and the quarantined ones."""
    blocks = range(len(vlm.blocks))
    vectors: np.ndarray = (
        np.empty((0, len(blocks), vlm.hidden_size), dtype=np.float32)
        if read.states is None
        else read.states.wait().float().numpy()
    )
    samples = read.shown.samples
    finite: np.ndarray = np.asarray(np.isfinite(vectors).all(axis=2))
    kept: np.ndarray = np.asarray(finite.all(axis=1))
    quarantined = [
        quarantine_row(stored, stage=job.stage, reason=_explain(job, finite[row]))
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
        position=job.position,
        intervention="" if job.steering is None else job.steering.name,
        alpha=None if job.steering is None else job.steering.alpha,
    )
    return table, [*read.shown.quarantined, *quarantined]


def _explain(job: EmbedJob, finite: np.ndarray) -> str:
    """Say where the first state is not finite; `finite` is bool [blocks]."""
    at = "" if job.position == LAST else f" and position {job.position}"
    return (
        f"the state at block {int(np.argmin(finite))}{at} under this condition is not finite; with dtype float16, use "
        "bfloat16 or float32"
    )


extract_states = make_stage(StageName.EXTRACT_STATES, _extract, place="devices")
