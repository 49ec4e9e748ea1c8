"""Overhead: how long answers take, plain and under each intervention, measured in turn on the same batches."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.datasets.splits import SplitRow, draw
from storage.identity import digest
from storage.manifest import Manifest
from storage.store import Store
from storage.tables import from_rows
from tasks.batches import cut
from tasks.commit import Rows, commit_rows
from tasks.models import ModelUse, load_model_once
from tasks.oom import run_in_smaller_batches
from tasks.progress import report_rows
from tasks.prompts import Showing, Shown, prepare_batch
from tasks.samples import Slice, StoredSample
from tasks.stage import Job, make_stage
from tasks.steering import Steering, intervene

if TYPE_CHECKING:
    from cmrm.model import VisionLanguageModel
    from cmrm.prefix import Prefixes
    from cmrm.renderer import Renderer

Way = Steering | None


@dataclass(frozen=True, kw_only=True)
class OverheadJob(Job):
    """One data set's samples under their own image, answered in several ways; `None` among `ways` is the plain one.

    Seconds are no property of the content alone, so what they depend on is part of the key: the batch size and, by
    its digest, the machine's name.
    """

    slice: Slice
    model: ModelUse
    showing: Showing
    ways: tuple[Way, ...]
    samples: int
    repeats: int
    batch_size: int
    max_new_tokens: int

    @property
    def stage(self) -> str:
        return "overhead"

    def content(self) -> dict[str, Any]:
        return {
            **self.model.content(),
            "samples": self.slice.digest,
            "count": self.samples,
            "repeats": self.repeats,
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "ways": [way and {"name": way.name, **way.content(self.showing)} for way in self.ways],
            "device": self.model.device,
            "machine": digest(platform.node()),
        }


def _measure(job: OverheadJob, store: Store) -> Manifest:
    from cmrm.prefix import Prefixes

    vlm = load_model_once(job.model)
    members = job.slice.shard.read(store, job.slice.condition)
    # Drawn by text, so that the order of a file, often by category, does not choose.
    chosen = sorted(members, key=lambda stored: draw(SplitRow.of(stored.sample).text, seed=0))[: job.samples]
    timed: list[_Timed] = []

    def time_all(size: int) -> None:
        # Seconds depend on the batch size: after an OOM all ways are timed again, on the same smaller batches.
        timed.clear()
        timed.append(_time_ways(job, vlm, Prefixes(vlm), chosen, size))

    smallest = run_in_smaller_batches(
        job, job.batch_size, time_all, lambda: [stored.sample.id for stored in chosen]
    )
    found = timed[0]
    return commit_rows(
        job,
        store,
        kind="timings",
        table=from_rows(found.rows, "timings"),
        rows=Rows(
            asked=(stored.sample.id for stored in chosen),
            written=found.answered,
            quarantined=(row["sample_id"] for row in found.quarantined),
        ),
        quarantined=found.quarantined,
        provenance={
            "torch_threads": _count_threads(),
            "dataset": job.slice.shard.dataset,
            "smallest_batch_size": smallest,
        },
    )


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """The rows of all ways, batch by batch, and the samples that every way answered or that were quarantined."""

    rows: Sequence[dict[str, Any]]
    answered: Sequence[str]
    quarantined: Sequence[dict[str, Any]]


def _time_ways(
    job: OverheadJob, vlm: VisionLanguageModel, prefixes: Prefixes, chosen: Sequence[StoredSample], size: int
) -> _Timed:
    from cmrm.renderer import Renderer

    # As when questions are answered: what prompts share is read once, with the first of them.
    renderer = Renderer(vlm)
    prepared = [_prepare(job, vlm, renderer, batch) for batch in cut(chosen, size)]
    batches = [shown for shown in prepared if shown.samples]
    rows = [
        {
            "model": job.model.name,
            "dataset": job.slice.shard.dataset,
            "intervention": "" if way is None else way.name,
            "alpha": None if way is None else way.alpha,
            "level": None if way is None else way.level,
            "batch": batch,
            "repeat": repeat,
            "samples": len(batches[batch].samples),
            "tokens": tokens,
            "seconds": seconds,
            "device": _name_device(vlm),
        }
        for batch, repeat, way, tokens, seconds in _interleave(job, vlm, batches, prefixes)
    ]
    return _Timed(
        rows=rows,
        answered=[stored.sample.id for shown in batches for stored in shown.samples],
        quarantined=[row for shown in prepared for row in shown.quarantined],
    )


def _prepare(
    job: OverheadJob, vlm: VisionLanguageModel, renderer: Renderer, batch: Sequence[StoredSample]
) -> Shown:
    """Make a batch's prompts, and set aside the samples that one of the ways cannot be asked."""
    shown = prepare_batch(renderer, job.showing, batch, job.slice.condition, stage=job.stage)
    for way in job.ways:
        if way is not None and shown.samples:
            shown, _ = intervene(
                way, store=job.store, vlm=vlm, showing=job.showing, shown=shown, stage=job.stage
            )
    return shown


def _interleave(
    job: OverheadJob, vlm: VisionLanguageModel, batches: Sequence[Shown], prefixes: Prefixes
) -> Iterator[tuple[int, int, Way, int, float]]:
    """Batch by batch every way in turn, each time another one first, so that no way has the warmer machine."""
    if batches:
        for way in job.ways:
            _answer(job, vlm, batches[0], way, prefixes)  # the first pass of a kind pays for allocations
    for repeat in range(job.repeats):
        for batch, shown in enumerate(batches):
            first = (batch + repeat) % len(job.ways)
            for way in (*job.ways[first:], *job.ways[:first]):
                yield batch, repeat, way, *_answer(job, vlm, shown, way, prefixes)
                report_rows(len(shown.samples))


def _answer(
    job: OverheadJob, vlm: VisionLanguageModel, shown: Shown, way: Way, prefixes: Prefixes
) -> tuple[int, float]:
    """Answer one batch; generated tokens, and seconds."""
    from cmrm.generation import generate

    _wait_for_device(vlm)
    started = time.perf_counter()
    intervention = None
    if way is not None:
        shown, intervention = intervene(
            way,
            store=job.store,
            vlm=vlm,
            showing=job.showing,
            shown=shown,
            stage=job.stage,
            prefixes=prefixes,
        )
    answers = generate(
        vlm,
        shown.prompts,
        max_new_tokens=job.max_new_tokens,
        intervention=intervention,
        prefixes=prefixes,
    )
    _wait_for_device(vlm)
    return sum(answer.tokens for answer in answers.answers), time.perf_counter() - started


def _wait_for_device(vlm: VisionLanguageModel) -> None:
    import torch

    if vlm.device.type == "cuda":
        torch.cuda.synchronize(vlm.device)


def _name_device(vlm: VisionLanguageModel) -> str:
    import torch

    return torch.cuda.get_device_name(vlm.device) if vlm.device.type == "cuda" else str(vlm.device)


def _count_threads() -> int:
    import torch

    return torch.get_num_threads()


def choose_timed(slices: Sequence[Slice]) -> list[Slice]:
    """The first shard of each data set: the samples that are timed are drawn from it."""
    return list({part.shard.dataset: part for part in reversed(slices)}.values())[::-1]


measure_overhead = make_stage("overhead", _measure, place="one device")
