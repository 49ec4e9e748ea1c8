"""Judge: a verdict on every answer of a shard; judging again never generates again."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cmrm.errors import UserError
from cmrm.judges import Answer, Judge, Verdict
from cmrm.judges.judge import find_fault
from storage.errors import StoreError
from storage.identity import digest
from storage.manifest import Manifest
from storage.rows import need_manifest, read_rows
from storage.store import Store
from storage.tables import from_rows
from tasks.batches import Finished, work_through
from tasks.judges import JudgeUse, describe_spec, load_judge
from tasks.prompts import Showing, quarantine_row
from tasks.samples import Slice, StoredSample
from tasks.stage import Job, make_stage

if TYPE_CHECKING:
    from cmrm.judges.judge import Field

log = logging.getLogger("cmrm.tasks")

# Of judges that have no batch size of their own: small beside a shard, large beside what a call costs.
BATCH_SIZE = 256
# How much finished work may wait for the rest of its batch.
PIECE_SECONDS = 1.0
MOST_REASON = 300
# How many other answers may show that a judge which fails on all of a batch works.
CONTROLS = 3


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
    """A judge, and the answers that are before it: their rows by sample, and the samples."""

    job: JudgeJob
    judge: Judge
    rows: Mapping[str, dict[str, Any]]
    samples: Sequence[StoredSample]

    def judge_each(self, samples: Sequence[StoredSample]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give each verdict, as a row, with its sample's place; raises `UserError` for a verdict that is none."""
        answered = [self.rows[stored.sample.id] for stored in samples]
        answers = [_to_answer(self.job, self.judge, *pair) for pair in zip(answered, samples, strict=True)]
        waiting = set(range(len(samples)))
        for place, verdict in self.judge.judge_each(answers):
            if place not in waiting:
                raise _miscounted(self.job)
            waiting.remove(place)
            yield place, _to_row(self.job, answered[place], verdict)
        if waiting:
            raise _miscounted(self.job)


def _judge_batch(bench: Bench, batch: Sequence[StoredSample]) -> Iterator[Finished]:
    """The verdicts on a batch, in pieces of a second's work.

    What came before an error is kept. Where the error may be one sample's fault, the others are judged one by one.
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
            if not _may_be_a_samples(error):
                raise
            said = _describe_error(error)
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

    Raises the judge's error where it fails on all that it is given: a broken judge is no sample's fault.
    """
    controls = list(judged)
    failed: list[tuple[StoredSample, str]] = []
    last: Exception | None = None
    for stored in samples:
        try:
            rows = [row for _, row in bench.judge_each([stored])]
        except Exception as error:
            if not _may_be_a_samples(error):
                raise
            failed.append((stored, _describe_error(error)))
            # Of the others no more is kept: a traceback holds all that the judge held.
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
    """Whether the judge, which failed just now, gives a verdict on an answer that it judged or on another one."""
    apart = {stored.sample.id for stored in failed}
    others = [stored for stored in bench.samples if stored.sample.id not in apart]
    # Samples that stand beside each other may be bad alike.
    spread = others[:: -max(1, len(others) // CONTROLS)][:CONTROLS]
    for control in judged[-1:] or spread:
        try:
            for _ in bench.judge_each([control]):
                return True
        except Exception as error:
            if not _may_be_a_samples(error):
                raise
    return False


def _may_be_a_samples(error: BaseException) -> bool:
    """Whether an error may be one sample's fault: no person's mistake, no store's, no shortage and no signal."""
    if not isinstance(error, Exception) or isinstance(error, UserError | StoreError):
        return False
    # It brings torch, which many judges do without.
    from cmrm.memory import is_out_of_memory

    return not is_out_of_memory(error)


def _describe_error(error: BaseException) -> str:
    said = " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
    return said.encode("utf-8", "replace").decode()


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
    if fault := find_fault(verdict):
        raise UserError(
            f"judge {job.judge.name!r} gave sample {row['sample_id']!r} of {row['dataset']!r} {fault}; "
            "mend its judge()."
        )
    usage = verdict.usage
    return {
        "judge": job.judge.name,
        "verdict": verdict.verdict,
        "refused": verdict.refused,
        "score": None if verdict.score is None else float(verdict.score),
        "reference_score": None if verdict.reference_score is None else float(verdict.reference_score),
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
