"""A slice of the targets to be answered by one model in one way: plainly, or under an intervention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from storage.manifest import Manifest
from tasks.judge import Answers
from tasks.models import ModelUse
from tasks.prompts import Showing
from tasks.samples import Slice
from tasks.stage import Job
from tasks.steering import Steering


@dataclass(frozen=True, kw_only=True)
class GenerateJob(Job):
    """One slice of the targets, answered by one model."""

    slice: Slice
    model: ModelUse
    showing: Showing
    steering: Steering | None
    max_new_tokens: int
    # None for as many as there is room for.
    batch_size: int | None

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
