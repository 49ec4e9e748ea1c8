"""Judge: a verdict on every answer of a shard; judging again never generates again."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

from cmrm.errors import UserError
from cmrm.judges import Answer, Judge, Verdict
from storage.identity import digest
from storage.manifest import Manifest
from storage.rows import need_manifest, read_rows
from storage.store import Store
from storage.tables import from_rows
from tasks.batches import Finished, work_through
from tasks.judges import JudgeUse, describe_spec, load_judge
from tasks.prompts import Showing
from tasks.samples import Slice, StoredSample
from tasks.stage import Job, make_stage

if TYPE_CHECKING:
    from cmrm.judges.judge import Field

# Of judges that have no batch size of their own: small beside a shard, large beside what a call costs.
BATCH_SIZE = 256
# How much finished work may wait for the rest of its batch.
PIECE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Answers:
    """A shard's answers: what was shown and how, and the manifest of what was said."""

    slice: Slice
    showing: Showing
    responses: Manifest
    label: str


@dataclass(frozen=True, kw_only=True)
class JudgeJob(Job):
    """A shard's answers before one judge; `digest` stands for all that the judge is shown.

    `showing` is there for a judge that looks at images.
    """

    judge: JudgeUse
    responses: str
    slice: Slice
    showing: Showing | None
    digest: str

    @property
    def stage(self) -> str:
        return "judge"

    def content(self) -> dict[str, Any]:
        # The rows carry the name, so another name is another table.
        return {"judge": dict(describe_spec(self.judge)), "name": self.judge.name, "answers": self.digest}


def plan_judging(store: Store, answers: Answers, judges: Sequence[JudgeUse]) -> list[JudgeJob]:
    """One job a judge for the answers of a shard."""
    if not judges:
        return []
    rows = _read_rows(store, answers.responses)
    samples = {stored.sample.id: stored for stored in answers.slice.shard.read_all(store)}
    return [
        JudgeJob(
            store=store.url,
            label=f"{answers.label}, {judge.name}",
            rows=len(rows),
            judge=judge,
            responses=answers.responses.key,
            slice=answers.slice,
            showing=answers.showing if "image" in judge.reads else None,
            digest=digest(_describe(rows, samples, answers, judge.reads)),
        )
        for judge in judges
    ]


def _judge(job: JudgeJob, store: Store) -> Manifest:
    rows = {
        row["sample_id"]: row for row in _read_rows(store, need_manifest(store, "generate", job.responses))
    }
    judge = load_judge(job.judge)

    def measure(stored: StoredSample) -> int:
        return len(stored.sample.question) + len(rows[stored.sample.id]["answer"])

    return work_through(
        job,
        store,
        kind="judgements",
        samples=[stored for stored in job.slice.shard.read_all(store) if stored.sample.id in rows],
        asked=rows,
        batch_size=getattr(judge, "batch_size", BATCH_SIZE),
        prepare=lambda batch: batch,
        finish=lambda batches: chain.from_iterable(
            _judge_batch(job, judge, batch, rows) for batch in batches
        ),
        partitions={},
        provenance={"responses": job.responses},
        length=measure,
    )


def _judge_batch(
    job: JudgeJob, judge: Judge, batch: Sequence[StoredSample], rows: Mapping[str, dict[str, Any]]
) -> Iterator[Finished]:
    """The verdicts on a batch, in pieces of a second's work: what came before an error is kept."""
    answered = [rows[stored.sample.id] for stored in batch]
    answers = [_to_answer(job, judge, row, stored) for row, stored in zip(answered, batch, strict=True)]
    verdicts = iter(judge.judge_each(answers))
    waiting = set(range(len(batch)))
    ready: list[dict[str, Any]] = []
    since = time.monotonic()
    while True:
        try:
            place, verdict = next(verdicts, (None, None))
        except BaseException:
            yield from_rows(ready, "judgements"), []
            raise
        if place is None or verdict is None:
            break
        if place not in waiting:
            raise _miscounted(job)
        waiting.remove(place)
        ready.append(_to_row(job, answered[place], verdict))
        if time.monotonic() - since >= PIECE_SECONDS:
            yield from_rows(ready, "judgements"), []
            ready, since = [], time.monotonic()
    if waiting:
        raise _miscounted(job)
    yield from_rows(ready, "judgements"), []


def _miscounted(job: JudgeJob) -> UserError:
    return UserError(
        f"judge {job.judge.name!r} did not give one verdict on each answer; its judge() must return as many as it is "
        "given, in order."
    )


_CARRIED = ("model", "dataset", "sample_id", "condition", "intervention", "alpha", "answer_digest")


def _read_rows(store: Store, responses: Manifest) -> list[dict[str, Any]]:
    # In one order, whatever batches they were answered in: their digest is part of a key.
    rows = read_rows(store, responses, "responses").to_pylist()
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def _to_answer(job: JudgeJob, judge: Judge, row: dict[str, Any], stored: StoredSample) -> Answer:
    """What the judge reads of an answer; what it does not read decides no verdict, whatever the judge does."""
    sample, reads = stored.sample, judge.reads
    return Answer(
        question=sample.question if "question" in reads else "",
        answer=row["answer"] if "answer" in reads else "",
        harmful=sample.harmful and "harmful" in reads,
        reference=sample.reference if "reference" in reads else None,
        context=sample.context if "context" in reads else None,
        image=None if job.showing is None else job.showing.show(stored, job.slice.condition).image,
    )


def _to_row(job: JudgeJob, row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    usage = verdict.usage
    return {
        "judge": job.judge.name,
        "verdict": verdict.verdict,
        "refused": verdict.refused,
        "score": verdict.score,
        "reference_score": verdict.reference_score,
        # A model's words may hold half a character.
        "raw": verdict.raw.encode("utf-8", "replace").decode(),
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
    } | {name: row[name] for name in _CARRIED}


def _describe(
    rows: Sequence[Mapping[str, Any]],
    samples: Mapping[str, StoredSample],
    answers: Answers,
    reads: frozenset[Field],
) -> list[list[Any]]:
    """What a judge that reads these fields is shown of each answer; the answer itself is in it as its digest."""
    own = answers.slice.condition == "image"
    image = None if own else answers.showing.content(answers.slice.condition)
    fields = [name for name in ("question", "harmful", "reference", "context") if name in reads]
    shown = []
    for row in rows:
        stored = samples[row["sample_id"]]
        known: dict[str, Any] = {name: getattr(stored.sample, name) for name in fields}
        if "image" in reads:
            known["image"] = stored.image_digest if own else image
        shown.append([*(row[name] for name in _CARRIED), known])
    return shown


judge_answers = make_stage("judge", _judge, place="processor")
judge_on_devices = make_stage("judge", _judge, place="devices")
