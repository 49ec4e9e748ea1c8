"""Generate: the answers of a shard's samples under one condition and at most one intervention, into Parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.identity import digest
from storage.manifest import Manifest
from storage.store import Store
from storage.tables import from_rows
from tasks.batches import Finished, work_through
from tasks.judge import Answers
from tasks.models import ModelUse, load_model_once
from tasks.prompts import Showing, prepare_batch, quarantine_row
from tasks.samples import Slice, StoredSample
from tasks.stage import Job, make_stage
from tasks.steering import Steering, intervene

if TYPE_CHECKING:
    from cmrm.answers import Answer
    from cmrm.faults import Fault
    from cmrm.model import VisionLanguageModel


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

    def as_answered(self, responses: Manifest) -> Answers:
        """What the job made, as judges are given it."""
        return Answers(slice=self.slice, showing=self.showing, responses=responses, label=self.label)


def _generate(job: GenerateJob, store: Store) -> Manifest:
    samples = job.slice.shard.read(store, job.slice.condition)
    vlm = load_model_once(job.model)
    acted: dict[str, int] = {}
    return work_through(
        job,
        store,
        kind="responses",
        samples=samples,
        batch_size=job.batch_size,
        finish=lambda batch: [_answer_batch(job, vlm, batch, acted)],
        partitions={},
        provenance={
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
        shown, intervention = intervene(
            job.steering, store=job.store, vlm=vlm, showing=job.showing, shown=shown, stage=job.stage
        )
        if intervention is None:
            return from_rows([], "responses"), shown.quarantined
    answers = generate(vlm, shown.prompts, max_new_tokens=job.max_new_tokens, intervention=intervention)
    if answers.proof is not None:
        for block, count in answers.proof.acted.items():
            acted[str(block)] = acted.get(str(block), 0) + count
    rows, aside = [], []
    for stored, answer in zip(shown.samples, answers.answers, strict=True):
        if answer.fault is None:
            rows.append(_describe(job, stored, answer))
        else:
            aside.append(quarantine_row(stored, stage=job.stage, reason=_explain(answer.fault)))
    return from_rows(rows, "responses"), [*shown.quarantined, *aside]


def _describe(job: GenerateJob, stored: StoredSample, answer: Answer) -> dict[str, Any]:
    return {
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


def _explain(fault: Fault) -> str:
    where = "at the prompt" if fault.step == 0 else f"at generated token {fault.step}"
    what = (
        f"the logits are not finite {where}, though the states at all blocks are"
        if fault.block is None
        else f"the state at block {fault.block} is not finite {where}"
    )
    return f"{what}, so there is no answer; with dtype float16, use bfloat16 or float32"


generate_answers = make_stage("generate", _generate, place="devices")
