"""The generate job: answers of one arm (baseline or one intervention) on a shard of the targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.records.manifest import Manifest
from tasks.core.models import ModelUse
from tasks.core.stage import Job
from tasks.core.stage_name import StageName
from tasks.shards.answers import AnswerShard
from tasks.shards.precision import describe_batches
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Slice
from tasks.states.steering import StepUse, Use, describe_model


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
            **describe_batches(self.fixed_batch),
        }

    @property
    def gives_answers(self) -> bool:
        """Whether its responses are judged: not those of a step before a defence's answer."""
        return not isinstance(self.steering, StepUse) or self.steering.is_last

    def as_answered(self, responses: Manifest) -> AnswerShard:
        """Make the judges' input from the job's responses."""
        return AnswerShard(slice=self.slice, showing=self.showing, responses=responses, label=self.label)
