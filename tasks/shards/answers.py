"""The answers of a shard, as input of the judges."""

from __future__ import annotations

from dataclasses import dataclass

from cmrm.prompts.reasoning import ReasoningMarks
from storage.records.manifest import Manifest
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Slice

# The field of a responses manifest's provenance with the marks of the model's traces.
REASONING = "reasoning"


@dataclass(frozen=True, kw_only=True)
class AnswerShard:
    """A shard's answers: its samples, how they were prompted, and the manifest of the responses.

    `reasoning` are the marks around the traces in them, None where the model has none.
    """

    slice: Slice
    showing: PromptBuilder
    responses: Manifest
    label: str
    reasoning: ReasoningMarks | None = None
