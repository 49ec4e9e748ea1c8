"""The generate job: answers of one arm (baseline or one intervention) on a shard of the targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.models import ModelUse
from tasks.core.stage import Job
from tasks.core.stage_name import StageName
from tasks.shards.answers import AnswerShard
from tasks.shards.precision import describe_batches
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Slice, StoredSample
from tasks.shards.stimuli import restore_gains
from tasks.states.steering import StepUse, Use, describe_model

if TYPE_CHECKING:
    from cmrm.decoding.requests import Answer


@dataclass(frozen=True, kw_only=True)
class GenerateJob(Job):
    """One shard of the targets under one condition, answered by one model under one arm."""

    slice: Slice
    model: ModelUse
    showing: PromptBuilder
    steering: Use | None
    max_new_tokens: int
    # None chooses it from free memory.
    batch_size: int | None
    # Size of fixed batches, with the same samples each time and one arm; None where batches follow free memory.
    fixed_batch: int | None = None

    @property
    def stage(self) -> StageName:
        return StageName.GENERATE

    def content(self) -> dict[str, Any]:
        return {
            **describe_model(self.model, self.slice.condition, self.steering),
            "condition": self.slice.condition,
            "image": self.showing.content(self.slice.condition),
            "samples": self.slice.digest,
            "decoding": {"method": "greedy", "max_new_tokens": self.max_new_tokens},
            "intervention": None if self.steering is None else self.steering.content(self.showing),
            "intervention_name": "" if self.steering is None else self.steering.name,
            **self.model.content_of_answers(),
            **describe_batches(self.fixed_batch),
        }

    @property
    def kind(self) -> str:
        """The table that its rows are written to."""
        return "responses"

    def read(self, store: Store) -> Sequence[StoredSample]:
        """Read the samples that it answers, in order."""
        return self.slice.shard.read(store, self.slice.condition)

    def find_lack(self, answer: Answer) -> str | None:  # noqa: ARG002 - for jobs that cannot use every answer
        """Say why an answer cannot be used, so that its sample is quarantined; None if it can."""
        return None

    def to_row(self, stored: StoredSample, answer: Answer) -> dict[str, Any]:
        """Make the row of an answer."""
        steering = self.steering
        return {
            "model": self.model.name,
            "dataset": stored.sample.dataset,
            "sample_id": stored.sample.id,
            "condition": self.slice.condition,
            "intervention": "" if steering is None else steering.name,
            "alpha": None if steering is None else steering.alpha,
            "level": None if steering is None else steering.level,
            "answer": answer.text,
            "answer_digest": digest(answer.text),
            "tokens": answer.tokens,
            "finish_reason": answer.finish_reason,
            "prompt_tokens": answer.prompt_tokens,
        }

    @property
    def gives_answers(self) -> bool:
        """Whether its responses are judged: not those of a step before a defence's answer."""
        return not isinstance(self.steering, StepUse) or self.steering.is_last

    def as_answered(self, responses: Manifest) -> AnswerShard:
        """Make the judges' input from the job's responses."""
        showing = restore_gains(self.showing, responses.provenance)
        return AnswerShard(
            slice=self.slice,
            showing=showing,
            responses=responses,
            label=self.label,
            reasoning=self.model.reasoning,
        )
