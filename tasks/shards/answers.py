"""The answers of a shard, as input of the judges."""

from __future__ import annotations

from dataclasses import dataclass

from storage.records.manifest import Manifest
from tasks.shards.prompts import PromptBuilder
from tasks.shards.samples import Slice


@dataclass(frozen=True, kw_only=True)
class AnswerShard:
    """A shard's answers: its samples, how they were prompted, and the manifest of the responses."""

    slice: Slice
    showing: PromptBuilder
    responses: Manifest
    label: str
