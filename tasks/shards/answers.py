"""The answers of a shard, as input of the judges."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cmrm.prompts.reasoning import ReasoningMarks, is_split
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.core.stage_name import ANSWERS, StageName
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


def need_responses(store: Store, key: str) -> Manifest:
    """Find the manifest of answers that a run has just used, generated or imported; StoreError if it is gone."""
    stage = next((one for one in ANSWERS if store.look_up(one, key) is not None), StageName.GENERATE)
    return need_manifest(store, stage, key)


def keep_marks(marks: ReasoningMarks | None, answers: Iterable[str]) -> ReasoningMarks | None:
    """Keep a model's marks if any of these answers is split by them; None leaves the answers, and keys, as they are."""
    return marks if marks is not None and any(is_split(answer, marks) for answer in answers) else None


def find_judged_marks(judged: Iterable[Manifest]) -> dict[str, ReasoningMarks]:
    """Find the marks by which answers were split for their judges, by the key of their responses; others were whole.

    `judged` are the verdicts on answers.
    """
    return {
        made.provenance["responses"]: ReasoningMarks.from_content(made.content["reasoning"])
        for made in judged
        if made.content.get("reasoning")
    }
