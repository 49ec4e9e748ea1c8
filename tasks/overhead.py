"""Measure overhead: seconds of the baseline and of each intervention, interleaved on the same batches."""

from __future__ import annotations

import platform
import time
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from cmrm.datasets.splits import SplitRow, draw
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.commit import Rows, commit_rows
from tasks.core.models import ModelUse, load_model_once
from tasks.core.oom import run_in_smaller_batches
from tasks.core.progress import report_rows
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.shards.isolation import Isolation, run_past_failures
from tasks.shards.prompts import PromptBuilder, Shown, prepare_batch, quarantine_row, render_apart
from tasks.shards.run_shard import cut
from tasks.shards.samples import Slice, StoredSample
from tasks.shards.stimuli import fit_images
from tasks.states.intervene import intervene
from tasks.states.steering import SingleUse, StepUse, list_meaningless

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.prefix.planner import Prefixes
    from cmrm.prefix.renderer import Renderer


@dataclass(frozen=True, kw_only=True)
class SteppedArm:
    """A defence with several generations, timed as one: `passes` in their order; None among them is the plain answer.

    A sample takes the passes that it needs by the answers that are stored.
    """

    # Levels are those of CMRM.
    level: ClassVar[None] = None

    name: str
    alpha: float | None
    passes: tuple[StepUse | None, ...]

    def content(self, showing: PromptBuilder) -> dict[str, Any]:
        """The key content that determines what is timed."""
        return {"passes": [one and one.content(showing) for one in self.passes]}


Arm = SingleUse | SteppedArm | None
Pass = SingleUse | StepUse | None


@dataclass(frozen=True, kw_only=True)
class OverheadJob(Job):
    """One data set's samples under their own image, timed under several arms; `None` among `arms` is the baseline.

    Seconds are no property of the content alone, so what they depend on is part of the key: the batch size and, by
    its digest, the machine's name.
    """

    slice: Slice
    model: ModelUse
    showing: PromptBuilder
    arms: tuple[Arm, ...]
    samples: int
    repeats: int
    batch_size: int
    max_new_tokens: int

    @property
    def stage(self) -> StageName:
        return StageName.OVERHEAD

    def content(self) -> dict[str, Any]:
        return {
            **self.model.content_with_images(),
            "samples": self.slice.digest,
            "count": self.samples,
            "repeats": self.repeats,
            "batch_size": self.batch_size,
            "max_new_tokens": self.max_new_tokens,
            "ways": [arm and {"name": arm.name, **arm.content(self.showing)} for arm in self.arms],
            "device": self.model.device,
            "machine": digest(platform.node()),
        }


def _measure(job: OverheadJob, store: Store) -> Manifest:
    from cmrm.prefix.planner import Prefixes

    vlm = load_model_once(job.model)
    passes = [one for arm in job.arms for one in (arm.passes if isinstance(arm, SteppedArm) else (arm,))]
    shown = list_meaningless(job.slice.condition, *passes)
    job = replace(job, showing=fit_images(job.showing, vlm, shown))
    members = job.slice.shard.read(store, job.slice.condition)
    # Drawn by text, since files are often sorted by category.
    chosen = sorted(members, key=lambda stored: draw(SplitRow.of(stored.sample).text, seed=0))[: job.samples]
    timed: list[_Timed] = []
    failed: dict[str, dict[str, Any]] = {}

    def list_left() -> list[StoredSample]:
        return [stored for stored in chosen if stored.sample.id not in failed]

    def time_all(size: int) -> None:
        # Seconds depend on the batch size: after an OOM all arms are timed again, on the same smaller batches.
        timed.clear()
        timed.append(_time_arms(job, vlm, Prefixes(vlm), list_left(), size))

    def quarantine(stored: StoredSample, reason: str) -> None:
        failed[stored.sample.id] = quarantine_row(stored, stage=job.stage, reason=reason)

    isolation = Isolation(
        list_suspects=list_left,
        list_controls=lambda: [stored for stored in members if stored not in chosen],
        probe=lambda stored: _time_alone(job, vlm, stored),
        quarantine=quarantine,
    )
    smallest = run_in_smaller_batches(
        job,
        job.batch_size,
        lambda size: run_past_failures(job, partial(time_all, size), isolation),
        lambda: [stored.sample.id for stored in list_left()],
    )
    found = timed[0]
    quarantined = [*found.quarantined, *failed.values()]
    return commit_rows(
        job,
        store,
        kind="timings",
        table=from_rows(found.rows, "timings"),
        rows=Rows(
            asked=(stored.sample.id for stored in chosen),
            written=found.answered,
            quarantined=(row["sample_id"] for row in quarantined),
        ),
        quarantined=quarantined,
        provenance={
            "torch_threads": _count_threads(),
            "dataset": job.slice.shard.dataset,
            "smallest_batch_size": smallest,
        },
    )


@dataclass(frozen=True, kw_only=True)
class _Timed:
    """The rows of all arms, batch by batch, and the samples that every arm answered or that were quarantined."""

    rows: Sequence[dict[str, Any]]
    answered: Sequence[str]
    quarantined: Sequence[dict[str, Any]]


def _time_arms(
    job: OverheadJob, vlm: VisionLanguageModel, prefixes: Prefixes, chosen: Sequence[StoredSample], size: int
) -> _Timed:
    from cmrm.prefix.renderer import Renderer

    # As in generate: the prefill of a shared prefix runs once, with the first prompt.
    renderer = Renderer(vlm)
    prepared = [_prepare(job, vlm, renderer, batch) for batch in cut(chosen, size)]
    batches = [shown for shown in prepared if shown.samples]
    rows = [
        {
            "model": job.model.name,
            "dataset": job.slice.shard.dataset,
            "intervention": "" if arm is None else arm.name,
            "alpha": None if arm is None else arm.alpha,
            "level": None if arm is None else arm.level,
            "batch": batch,
            "repeat": repeat,
            "samples": len(batches[batch].samples),
            "tokens": tokens,
            "seconds": seconds,
            "device": _name_device(vlm),
        }
        for batch, repeat, arm, tokens, seconds in _interleave(job, vlm, batches, prefixes)
    ]
    timings = Counter(row["batch"] for row in rows)
    return _Timed(
        rows=rows,
        # In a batch that lacks a timing no sample counts as done.
        answered=[
            stored.sample.id
            for batch, shown in enumerate(batches)
            for stored in shown.samples
            if timings[batch] == job.repeats * len(job.arms)
        ],
        quarantined=[row for shown in prepared for row in shown.quarantined],
    )


def _time_alone(job: OverheadJob, vlm: VisionLanguageModel, stored: StoredSample) -> None:
    """Answer one sample under every arm, to see whether the model fails on it."""
    from cmrm.prefix.planner import Prefixes

    _time_arms(replace(job, repeats=0), vlm, Prefixes(vlm), [stored], 1)


def _prepare(
    job: OverheadJob, vlm: VisionLanguageModel, renderer: Renderer, batch: Sequence[StoredSample]
) -> Shown:
    """Build a batch's prompts, and quarantine the samples that one of the arms cannot answer."""
    shown = prepare_batch(renderer, job.showing, batch, job.slice.condition, stage=job.stage)
    for one in {one: None for arm in job.arms for one in _list_passes(arm)}:
        if one is not None and shown.samples:
            shown = _refuse(job, vlm, renderer, shown, one)
    return shown


def _refuse(
    job: OverheadJob, vlm: VisionLanguageModel, renderer: Renderer, shown: Shown, one: SingleUse | StepUse
) -> Shown:
    """Quarantine the samples that one pass cannot answer."""
    gaps: dict[str, str] = {}
    if isinstance(one, StepUse):
        found = {stored.sample.id: one.explain_gap(stored.sample.id, job.store) for stored in shown.samples}
        gaps = {sample: reason for sample, reason in found.items() if reason is not None}
    needed = _choose(job, _leave_out(shown, gaps), one)
    asked, _ = intervene(
        one,
        store=job.store,
        vlm=vlm,
        showing=job.showing,
        shown=replace(needed, quarantined=()),
        stage=job.stage,
    )
    # The plain prompts were rendered when the batch was prepared.
    plain = {stored.sample.id: prompt for stored, prompt in zip(needed.samples, needed.prompts, strict=True)}
    changed = any(
        own is not plain[stored.sample.id] for stored, own in zip(asked.samples, asked.prompts, strict=True)
    )
    refused = render_apart(renderer, asked.prompts).refused if changed else {}
    reasons = (
        gaps
        | {row["sample_id"]: row["reason"] for row in asked.quarantined}
        | {asked.samples[row].sample.id: reason for row, reason in refused.items()}
    )
    lost = [
        quarantine_row(stored, stage=job.stage, reason=reasons[stored.sample.id])
        for stored in shown.samples
        if stored.sample.id in reasons
    ]
    return replace(_leave_out(shown, reasons), quarantined=[*shown.quarantined, *lost])


def _list_passes(arm: Arm) -> Sequence[Pass]:
    return arm.passes if isinstance(arm, SteppedArm) else (arm,)


def _choose(job: OverheadJob, shown: Shown, one: Pass) -> Shown:
    """Choose the samples of a batch that need a pass."""
    if not isinstance(one, StepUse):
        return shown
    needless = {
        stored.sample.id for stored in shown.samples if not one.is_needed(stored.sample.id, job.store)
    }
    return _leave_out(shown, needless)


def _leave_out(shown: Shown, samples: Container[str]) -> Shown:
    kept = [row for row, stored in enumerate(shown.samples) if stored.sample.id not in samples]
    return Shown(
        samples=[shown.samples[row] for row in kept],
        prompts=[shown.prompts[row] for row in kept],
        quarantined=shown.quarantined,
    )


def _interleave(
    job: OverheadJob, vlm: VisionLanguageModel, batches: Sequence[Shown], prefixes: Prefixes
) -> Iterator[tuple[int, int, Arm, int, float]]:
    """Time every arm on each batch in turn, rotating the first, so that no arm always has the warmer device."""
    if batches:
        for arm in job.arms:
            _answer(
                job, vlm, batches[0], arm, prefixes
            )  # warm-up: the first pass of each arm pays for allocations
    for repeat in range(job.repeats):
        for batch, shown in enumerate(batches):
            first = (batch + repeat) % len(job.arms)
            for arm in (*job.arms[first:], *job.arms[:first]):
                yield batch, repeat, arm, *_answer(job, vlm, shown, arm, prefixes)
                report_rows(len(shown.samples))


def _answer(
    job: OverheadJob, vlm: VisionLanguageModel, shown: Shown, arm: Arm, prefixes: Prefixes
) -> tuple[int, float]:
    """Answer one batch, in one pass or several; return the number of generated tokens, and seconds."""
    tokens, seconds = zip(
        *(_answer_once(job, vlm, _choose(job, shown, one), one, prefixes) for one in _list_passes(arm)),
        strict=True,
    )
    return sum(tokens), sum(seconds)


def _answer_once(
    job: OverheadJob, vlm: VisionLanguageModel, shown: Shown, one: Pass, prefixes: Prefixes
) -> tuple[int, float]:
    from cmrm.decoding.api import answer
    from cmrm.decoding.requests import DecodeRequest

    _wait_for_device(vlm)
    started = time.perf_counter()
    acting, plain = None, shown.prompts
    if one is not None:
        shown, acting = intervene(
            one,
            store=job.store,
            vlm=vlm,
            showing=job.showing,
            shown=shown,
            stage=job.stage,
            prefixes=prefixes,
        )
    contrast = None if one is None else one.contrast
    request = DecodeRequest(
        prompts=plain if contrast is not None else shown.prompts,
        arms=[acting],
        own_prompts={} if contrast is None else {0: shown.prompts},
        contrasts={} if contrast is None else {0: contrast},
    )
    rows = max(1, len(shown.prompts))
    answered = list(answer(vlm, [request], max_new_tokens=job.max_new_tokens, rows=rows, prefixes=prefixes))
    _wait_for_device(vlm)
    return sum(done.answers[0].tokens for done in answered), time.perf_counter() - started


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
    """Choose the first shard of each data set: the timed samples are drawn from it."""
    return list({one.shard.dataset: one for one in reversed(slices)}.values())[::-1]


measure_overhead = make_stage(StageName.OVERHEAD, _measure, place="one device")
