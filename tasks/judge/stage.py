"""Judge every answer of a shard; judging again never generates again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.errors import UserError
from cmrm.judges import Answer, Judge, Verdict
from cmrm.judges.judge import find_fault
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest, read_rows
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.call_thread import iterate_apart
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName
from tasks.judge.loaded import JudgeUse, describe_spec, load_judge
from tasks.shards.answers import AnswerShard
from tasks.shards.isolation import CONTROLS, MOST_REASON, describe_error, may_be_of_a_sample
from tasks.shards.prompts import PromptBuilder, quarantine_row
from tasks.shards.run_shard import Finished, work_through
from tasks.shards.samples import Slice, StoredSample

if TYPE_CHECKING:
    from cmrm.judges.judge import Field

log = logging.getLogger("cmrm.tasks")

# For judges without a batch size of their own: small against a shard, large against the cost of a call.
BATCH_SIZE = 256
# Verdicts are written after at most this long, before the rest of their batch.
PIECE_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class JudgeJob(Job):
    """A shard's answers and one judge; `digest` is of everything that the judge is shown.

    `showing` is set for a judge that reads images.
    """

    judge: JudgeUse
    responses: str
    slice: Slice
    showing: PromptBuilder | None
    digest: str

    @property
    def stage(self) -> StageName:
        return StageName.JUDGE

    def content(self) -> dict[str, Any]:
        # Rows contain the name, so another name is another table.
        return {"judge": dict(describe_spec(self.judge)), "name": self.judge.name, "answers": self.digest}


def plan_judging(store: Store, answers: AnswerShard, judges: Sequence[JudgeUse]) -> list[JudgeJob]:
    """Plan one job per judge for the answers of a shard."""
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
        row["sample_id"]: row
        for row in _read_rows(store, need_manifest(store, StageName.GENERATE, job.responses))
    }
    judge = load_judge(job.judge)

    def measure(stored: StoredSample) -> int:
        return len(stored.sample.question) + len(rows[stored.sample.id]["answer"])

    samples = [stored for stored in job.slice.shard.read_all(store) if stored.sample.id in rows]
    bench = Bench(job=job, judge=judge, rows=rows, samples=samples)
    return work_through(
        job,
        store,
        kind="judgements",
        samples=samples,
        asked=rows,
        batch_size=getattr(judge, "batch_size", BATCH_SIZE),
        prepare=lambda batch: batch,
        finish=lambda batches: (piece for batch in batches for piece in _judge_batch(bench, batch)),
        partitions={},
        provenance={"responses": job.responses},
        length=measure,
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A judge and the answers to judge: their rows by sample, and the samples."""

    job: JudgeJob
    judge: Judge
    rows: Mapping[str, dict[str, Any]]
    samples: Sequence[StoredSample]

    def judge_each(self, samples: Sequence[StoredSample]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each verdict as a row, with its sample's index; raises `UserError` for an invalid verdict."""
        answered = [self.rows[stored.sample.id] for stored in samples]
        answers = [_to_answer(self.job, self.judge, *pair) for pair in zip(answered, samples, strict=True)]
        waiting = set(range(len(samples)))
        with iterate_apart(lambda: self.judge.judge_each(answers)) as verdicts:
            for place, verdict in verdicts:
                if place not in waiting:
                    raise _miscounted(self.job)
                waiting.remove(place)
                yield place, _to_row(self.job, answered[place], verdict)
        if waiting:
            raise _miscounted(self.job)


def _judge_batch(bench: Bench, batch: Sequence[StoredSample]) -> Iterator[Finished]:
    """Judge a batch, yielding its verdicts once a second.

    Verdicts before an error are kept. If one sample may have caused it, the rest are judged one by one.
    """
    waiting = dict(enumerate(batch))
    verdicts = bench.judge_each(batch)
    ready: list[dict[str, Any]] = []
    since = time.monotonic()
    while True:
        try:
            place, row = next(verdicts)
        except StopIteration:
            yield from_rows(ready, "judgements"), []
            return
        except BaseException as error:
            yield from_rows(ready, "judgements"), []
            if not may_be_of_a_sample(error):
                raise
            said = describe_error(error)
            log.warning(
                "%s: %s; judging %d answers of its batch one by one", bench.job.label, said, len(waiting)
            )
            break
        del waiting[place]
        ready.append(row)
        if time.monotonic() - since >= PIECE_SECONDS:
            yield from_rows(ready, "judgements"), []
            ready, since = [], time.monotonic()
    judged = [stored for place, stored in enumerate(batch) if place not in waiting]
    yield from _judge_alone(bench, [*waiting.values()], judged)


def _judge_alone(
    bench: Bench, samples: Sequence[StoredSample], judged: Sequence[StoredSample]
) -> Iterator[Finished]:
    """Judge samples one by one and quarantine those on which the judge fails; `judged` are others of their batch.

    Raises the judge's error if it fails on every sample: a broken judge is no sample's fault.
    """
    controls = list(judged)
    failed: list[tuple[StoredSample, str]] = []
    last: Exception | None = None
    for stored in samples:
        try:
            rows = [row for _, row in bench.judge_each([stored])]
        except Exception as error:
            if not may_be_of_a_sample(error):
                raise
            failed.append((stored, describe_error(error)))
            # Only the last error is kept: a traceback references everything that the judge allocated.
            last = error
        else:
            yield from_rows(rows, "judgements"), []
            controls.append(stored)
            last = None
    same = len({said for _, said in failed}) == 1
    if last is not None and (controls or same) and not _works(bench, samples, controls):
        raise last
    yield (
        from_rows([], "judgements"),
        [
            quarantine_row(
                stored,
                stage=bench.job.stage,
                reason=f"judge {bench.job.judge.name}: {said}"[:MOST_REASON],
            )
            for stored, said in failed
        ],
    )


def _works(bench: Bench, failed: Sequence[StoredSample], judged: Sequence[StoredSample]) -> bool:
    """Whether the judge, after a failure, still gives a verdict on an answer that it judged or on another one."""
    apart = {stored.sample.id for stored in failed}
    others = [stored for stored in bench.samples if stored.sample.id not in apart]
    # Adjacent samples may share a fault.
    spread = others[:: -max(1, len(others) // CONTROLS)][:CONTROLS]
    for control in judged[-1:] or spread:
        try:
            for _ in bench.judge_each([control]):
                return True
        except Exception as error:
            if not may_be_of_a_sample(error):
                raise
    return False


def _miscounted(job: JudgeJob) -> UserError:
    return UserError(
        f"judge {job.judge.name!r} did not give one verdict on each answer; its judge() must return as many as it is "
        "given, in order."
    )


_CARRIED = ("model", "dataset", "sample_id", "condition", "intervention", "alpha", "answer_digest")


def _read_rows(store: Store, responses: Manifest) -> list[dict[str, Any]]:
    # Sorted, whatever batches they were answered in: their digest is part of a key.
    rows = read_rows(store, responses, "responses").to_pylist()
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def _to_answer(job: JudgeJob, judge: Judge, row: dict[str, Any], stored: StoredSample) -> Answer:
    """Build the judge's input from the fields it declares to read, so that no other field can affect a verdict."""
    sample, reads = stored.sample, judge.reads
    return Answer(
        question=sample.question if "question" in reads else "",
        answer=row["answer"] if "answer" in reads else "",
        harmful=sample.harmful and "harmful" in reads,
        reference=sample.reference if "reference" in reads else None,
        context=sample.context if "context" in reads else None,
        image=None if job.showing is None else job.showing.show_image(stored, job.slice.condition),
    )


def _to_row(job: JudgeJob, row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    if fault := find_fault(verdict):
        raise UserError(
            f"judge {job.judge.name!r} gave sample {row['sample_id']!r} of {row['dataset']!r} {fault}; "
            "fix its judge()."
        )
    usage = verdict.usage
    return {
        "judge": job.judge.name,
        "verdict": verdict.verdict,
        "refused": verdict.refused,
        "score": None if verdict.score is None else float(verdict.score),
        "reference_score": None if verdict.reference_score is None else float(verdict.reference_score),
        # A model's reply may contain half a surrogate pair.
        "raw": verdict.raw.encode("utf-8", "replace").decode(),
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
    } | {name: row[name] for name in _CARRIED}


def _describe(
    rows: Sequence[Mapping[str, Any]],
    samples: Mapping[str, StoredSample],
    answers: AnswerShard,
    reads: frozenset[Field],
) -> list[list[Any]]:
    """What a judge that reads these fields is shown for each answer, with the answer itself as its digest."""
    own = answers.slice.condition == "image"
    image = None if own else answers.showing.describe_image(answers.slice.condition)
    fields = [name for name in ("question", "harmful", "reference", "context") if name in reads]
    shown = []
    for row in rows:
        stored = samples[row["sample_id"]]
        known: dict[str, Any] = {name: getattr(stored.sample, name) for name in fields}
        if "image" in reads:
            known["image"] = stored.image_digest if own else image
        shown.append([*(row[name] for name in _CARRIED), known])
    return shown


judge_answers = make_stage(StageName.JUDGE, _judge, place="processor")
judge_on_devices = make_stage(StageName.JUDGE, _judge, place="devices")
