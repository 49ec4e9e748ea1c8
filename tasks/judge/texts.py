"""Judge texts that are no answers: the traces of models that reason, and questions alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cmrm.judges import Verdict
from cmrm.prompts.reasoning import ReasoningMarks, split_trace
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.core.stage import make_stage
from tasks.core.stage_name import StageName
from tasks.judge.loaded import JudgeUse
from tasks.judge.stage import (
    CARRIED,
    VerdictJob,
    describe_answers,
    give_verdicts,
    read_answers,
)
from tasks.shards.answers import AnswerShard, need_responses
from tasks.shards.samples import slice_samples

# The table of all these verdicts.
TEXTS = "text_judgements"


@dataclass(frozen=True, kw_only=True)
class TraceJob(VerdictJob):
    """The traces of a shard's answers and one judge, which is given each in place of the answer."""

    kind: ClassVar[str] = TEXTS

    responses: str
    reasoning: ReasoningMarks

    @property
    def stage(self) -> StageName:
        return StageName.JUDGE_TEXTS

    def content(self) -> dict[str, Any]:
        return {**super().content(), "subject": "trace", "reasoning": self.reasoning.content()}

    def read_rows(self, store: Store) -> Mapping[str, dict[str, Any]]:
        rows = read_answers(store, need_responses(store, self.responses))
        return {row["sample_id"]: row for row in rows if self.find_text(row) is not None}

    def find_text(self, row: Mapping[str, Any]) -> str | None:
        return split_trace(row["answer"], self.reasoning).trace

    def to_row(self, row: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
        return {
            **super().to_row(row, verdict),
            "subject": "trace",
            "ended": split_trace(row["answer"], self.reasoning).ended,
            **{name: row[name] for name in CARRIED},
        }

    @property
    def provenance(self) -> dict[str, Any]:
        return {"responses": self.responses}


@dataclass(frozen=True, kw_only=True)
class QuestionJob(VerdictJob):
    """The questions of a shard, without their images and without an answer, and one judge."""

    kind: ClassVar[str] = TEXTS

    @property
    def stage(self) -> StageName:
        return StageName.JUDGE_TEXTS

    def content(self) -> dict[str, Any]:
        return {**super().content(), "subject": "question"}

    def read_rows(self, store: Store) -> Mapping[str, dict[str, Any]]:
        samples = self.slice.shard.read(store, self.slice.condition)
        return {one.sample.id: {"dataset": one.sample.dataset, "sample_id": one.sample.id} for one in samples}

    def find_text(self, row: Mapping[str, Any]) -> str | None:  # noqa: ARG002 - there is no answer
        return ""

    def to_row(self, row: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
        return {**super().to_row(row, verdict), "subject": "question", **row}


def plan_traces(store: Store, answers: AnswerShard, judges: Sequence[JudgeUse]) -> list[TraceJob]:
    """Plan one job for the traces of a shard per judge that judges traces; none where there is no trace."""
    judges = [judge for judge in judges if "trace" in judge.subjects]
    if not judges or answers.reasoning is None:
        return []
    rows = read_answers(store, answers.responses)
    rows = [row for row in rows if split_trace(row["answer"], answers.reasoning).trace is not None]
    if not rows:
        return []
    samples = {stored.sample.id: stored for stored in answers.slice.shard.read_all(store)}
    return [
        TraceJob(
            store=store.url,
            label=f"{answers.label}, {judge.name}, traces",
            rows=len(rows),
            judge=judge,
            slice=answers.slice,
            showing=answers.showing if "image" in judge.reads else None,
            digest=digest(describe_answers(rows, samples, answers, judge.reads)),
            responses=answers.responses.key,
            reasoning=answers.reasoning,
        )
        for judge in judges
    ]


def plan_questions(
    store: Store, ingested: Sequence[Manifest], judges: Sequence[JudgeUse], *, shard_size: int
) -> list[QuestionJob]:
    """Plan one job for the targets' questions of each shard per judge that judges questions."""
    return [
        QuestionJob(
            store=store.url,
            label=f"{one.label}, {judge.name}",
            rows=one.rows,
            judge=judge,
            slice=one,
            showing=None,
            digest=one.digest,
        )
        for judge in judges
        if "question" in judge.subjects
        for manifest in ingested
        for one in slice_samples(store.url, manifest.key, "target", "query", shard_size)
    ]


judge_texts = make_stage(StageName.JUDGE_TEXTS, give_verdicts, place="processor")
judge_texts_on_devices = make_stage(StageName.JUDGE_TEXTS, give_verdicts, place="devices")
