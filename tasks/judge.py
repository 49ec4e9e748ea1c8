"""Judge: a verdict on every answer of a shard; judging again never generates again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.judges import Answer, make_judge
from cmrm.samples import Sample
from storage.identity import digest
from storage.manifest import Manifest
from storage.rows import need_manifest, read_rows
from storage.store import Store
from storage.tables import from_rows
from tasks.batches import commit_rows
from tasks.progress import report_rows
from tasks.samples import Shard
from tasks.stage import Job, make_stage


@dataclass(frozen=True, kw_only=True)
class JudgeJob(Job):
    """A shard's answers before one judge; `digest` stands for all that the judge is shown."""

    judge: str
    responses: str
    shard: Shard
    digest: str

    @property
    def stage(self) -> str:
        return "judge"

    def content(self) -> dict[str, Any]:
        return {"judge": dict(make_judge(self.judge).spec()), "answers": self.digest}


def plan_judging(
    store: Store, *, shard: Shard, responses: Manifest, judges: Sequence[str], label: str
) -> list[JudgeJob]:
    """One job a judge for the answers of a shard."""
    rows = _read_rows(store, responses)
    by_id = _read_samples(store, shard)
    shown = digest([_describe(row, by_id[row["sample_id"]]) for row in rows])
    return [
        JudgeJob(
            store=store.url,
            label=f"{label}, {judge}",
            rows=len(rows),
            judge=judge,
            responses=responses.key,
            shard=shard,
            digest=shown,
        )
        for judge in judges
    ]


def _judge(job: JudgeJob, store: Store) -> Manifest:
    responses = need_manifest(store, "generate", job.responses)
    by_id = _read_samples(store, job.shard)
    rows = _read_rows(store, responses)
    verdicts = make_judge(job.judge).judge([_to_answer(row, by_id[row["sample_id"]]) for row in rows])
    judged = [
        {
            "judge": job.judge,
            "verdict": verdict.verdict,
            "refused": verdict.refused,
            "score": verdict.score,
            "raw": verdict.raw,
        }
        | {name: row[name] for name in _CARRIED}
        for row, verdict in zip(rows, verdicts, strict=True)
    ]
    report_rows(len(rows))
    return commit_rows(
        job,
        store,
        kind="judgements",
        rows=from_rows(judged, "judgements"),
        quarantined=(),
        provenance={"responses": job.responses},
    )


_CARRIED = ("model", "dataset", "sample_id", "condition", "intervention", "alpha", "answer_digest")


def _read_samples(store: Store, shard: Shard) -> dict[str, Sample]:
    return {stored.sample.id: stored.sample for stored in shard.read_all(store)}


def _read_rows(store: Store, responses: Manifest) -> list[dict[str, Any]]:
    # In one order, whatever batches they were answered in: their digest is part of a key.
    return list(read_rows(store, responses, "responses").sort_by("sample_id").to_pylist())


def _to_answer(row: dict[str, Any], sample: Sample) -> Answer:
    return Answer(
        question=sample.question, answer=row["answer"], harmful=sample.harmful, reference=sample.reference
    )


def _describe(row: dict[str, Any], sample: Sample) -> list[Any]:
    carried = [row[name] for name in _CARRIED]
    return [*carried, sample.question, sample.harmful, sample.reference]


judge_answers = make_stage("judge", _judge, place="processor")
