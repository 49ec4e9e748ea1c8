"""Generate: the answers of a shard's samples under one condition and at most one intervention, into Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cmrm.conditions import Condition
from cmrm.errors import UserError
from storage.identity import digest
from storage.manifest import Manifest
from storage.store import Store
from storage.tables import from_rows
from tasks.batches import Finished, commit_rows, work_through
from tasks.models import ModelUse, load_model_once
from tasks.prompts import Showing, Shown, prepare_batch, quarantine_row
from tasks.samples import Slice, StoredSample
from tasks.stage import Job, make_stage

if TYPE_CHECKING:
    from torch import Tensor

    from cmrm.conditions import Prompt
    from cmrm.model import VisionLanguageModel
    from cmrm.shift import Shift
    from cmrm.steering import Intervention


@dataclass(frozen=True, kw_only=True)
class Steering:
    """An intervention as a job carries it: `shift` is the key of a dataset-level Δ, or None for the sample level."""

    name: str
    level: str
    image: Condition
    alpha: float
    blocks: str | tuple[int, ...]
    scope: str
    composition: str
    shift: str | None

    def content(self, showing: Showing) -> dict[str, Any]:
        """What of it determines the answers: its Δ, not its name."""
        return {
            "level": self.level,
            "shift": self.shift or showing.content(self.image),
            "alpha": self.alpha,
            "blocks": self.blocks,
            "scope": self.scope,
            "composition": self.composition,
        }


@dataclass(frozen=True, kw_only=True)
class GenerateJob(Job):
    """One slice of the targets, answered by one model."""

    slice: Slice
    model: ModelUse
    showing: Showing
    steering: Steering | None
    max_new_tokens: int
    batch_size: int

    @property
    def stage(self) -> str:
        return "generate"

    def content(self) -> dict[str, Any]:
        return {
            **self.model.content(),
            "condition": self.slice.condition,
            "image": self.showing.content(self.slice.condition),
            "samples": self.slice.digest,
            "decoding": {"method": "greedy", "max_new_tokens": self.max_new_tokens},
            "intervention": None if self.steering is None else self.steering.content(self.showing),
            "intervention_name": "" if self.steering is None else self.steering.name,
        }


def _generate(job: GenerateJob, store: Store) -> Manifest:
    samples = job.slice.shard.read(store, job.slice.condition)
    vlm = load_model_once(job.model)
    acted: dict[str, int] = {}
    rows, quarantined = work_through(
        job,
        store,
        kind="responses",
        ids=("sample_id",),
        samples=samples,
        batch_size=job.batch_size,
        finish=lambda batch: _answer_batch(job, vlm, batch, acted),
    )
    return commit_rows(
        job,
        store,
        kind="responses",
        rows=rows.sort_by("sample_id"),
        quarantined=quarantined,
        partitions={},
        provenance={
            "batch_size": job.batch_size,
            "device": str(vlm.device),
            "steered_states_since_resumed": acted,
        },
    )


def _answer_batch(
    job: GenerateJob,
    vlm: VisionLanguageModel,
    batch: Sequence[StoredSample],
    acted: dict[str, int],
) -> Finished:
    from cmrm.generation import generate

    shown = prepare_batch(vlm, job.showing, batch, job.slice.condition, stage=job.stage)
    if not shown.samples:
        return from_rows([], "responses"), shown.quarantined
    intervention = None
    if job.steering is not None:
        blocks = _choose_blocks(vlm, job.steering.blocks)
        delta = _find_delta(job, job.steering, vlm, shown, blocks)
        shown, delta = _set_aside_not_finite(job, shown, delta)
        if not shown.samples:
            return from_rows([], "responses"), shown.quarantined
        intervention = _make_intervention(job.steering, delta, blocks)
    answers = generate(vlm, shown.prompts, max_new_tokens=job.max_new_tokens, intervention=intervention)
    if answers.proof is not None:
        for block, count in answers.proof.acted.items():
            acted[str(block)] = acted.get(str(block), 0) + count
    rows = [
        {
            "model": job.model.name,
            "dataset": stored.sample.dataset,
            "sample_id": stored.sample.id,
            "condition": job.slice.condition,
            "intervention": "" if job.steering is None else job.steering.name,
            "alpha": None if job.steering is None else job.steering.alpha,
            "level": None if job.steering is None else job.steering.level,
            "answer": answer.text,
            "answer_digest": digest(answer.text),
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
        }
        for stored, answer in zip(shown.samples, answers.answers, strict=True)
    ]
    return from_rows(rows, "responses"), shown.quarantined


def _find_delta(
    job: GenerateJob, steering: Steering, vlm: VisionLanguageModel, shown: Shown, blocks: tuple[int, ...]
) -> Tensor:
    """Δ for a batch: [blocks, hidden] at dataset level, [rows, blocks, hidden] at sample level."""
    from cmrm.shift import measure_sample_shift

    if steering.shift is not None:
        return _load_shift_once(job.store, steering.shift).choose(blocks).to(vlm.device)
    return measure_sample_shift(
        vlm,
        with_image=_show(job.showing, shown, steering.image),
        text_only=_show(job.showing, shown, "query"),
        blocks=blocks,
    )


def _set_aside_not_finite(job: GenerateJob, shown: Shown, delta: Tensor) -> tuple[Shown, Tensor]:
    """Quarantine the samples whose own Δ is not finite, as half precision can make it; the others go on."""
    if delta.dim() == 2:
        return shown, delta
    finite = delta.isfinite().flatten(1).all(dim=1)
    reason = "its sample-level Δ is not finite; use dtype bfloat16 or float32"
    kept = [row for row, good in enumerate(finite.tolist()) if good]
    aside = [
        quarantine_row(stored, stage=job.stage, reason=reason)
        for stored, good in zip(shown.samples, finite.tolist(), strict=True)
        if not good
    ]
    rest = Shown(
        samples=[shown.samples[row] for row in kept],
        prompts=[shown.prompts[row] for row in kept],
        quarantined=[*shown.quarantined, *aside],
    )
    return rest, delta[finite]


def _make_intervention(steering: Steering, delta: Tensor, blocks: tuple[int, ...]) -> Intervention:
    from cmrm.steering import Intervention

    return Intervention(
        delta=delta,
        alpha=steering.alpha,
        blocks=blocks,
        scope=steering.scope,  # type: ignore[arg-type] # checked by Intervention
        composition=steering.composition,  # type: ignore[arg-type] # as above
    )


def _show(showing: Showing, shown: Shown, condition: Condition) -> list[Prompt]:
    return [showing.show(stored, condition) for stored in shown.samples]


def _choose_blocks(vlm: VisionLanguageModel, blocks: str | tuple[int, ...]) -> tuple[int, ...]:
    count = len(vlm.blocks)
    if blocks == "all":
        return tuple(range(count))
    if blocks == "upper_half":
        return tuple(range(count // 2, count))
    if blocks == "middle":
        return (count // 2,)
    chosen = tuple(int(block) for block in blocks)
    if chosen[-1] >= count:
        raise UserError(
            f"interventions.blocks: no block {chosen[-1]} in this model; it has blocks 0 to {count - 1}."
        )
    return chosen


# A dataset-level Δ is one small file that every batch of a job needs.
@lru_cache(maxsize=8)
def _load_shift_once(url: str, key: str) -> Shift:
    from cmrm.shift import load_shift

    store = Store.open(url)
    manifest = store.find("shift", key)
    if manifest is None:
        raise RuntimeError(f"shift {key[:12]} vanished from {url} while the run was using it")
    return load_shift(store.local_path(manifest.path("shifts")))


generate_answers = make_stage("generate", _generate)
