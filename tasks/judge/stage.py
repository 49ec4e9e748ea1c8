"""Judge every answer of a shard; judging again never generates again."""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from cmrm.errors import UserError
from cmrm.judges import Answer, Judge, Verdict
from cmrm.judges.judge import find_fault
from cmrm.prompts.reasoning import ReasoningMarks, find_final
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.call_thread import iterate_apart
from tasks.core.stage import Job, Stage, make_stage
from tasks.core.stage_name import StageName
from tasks.judge.loaded import JudgeUse, describe_spec, load_judge
from tasks.shards.answers import AnswerShard, keep_marks, need_responses
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


# The columns of an answer that its verdicts repeat.
CARRIED = ("model", "dataset", "sample_id", "condition", "intervention", "alpha", "answer_digest")
# What the row of an answer without a final part says in place of a judge's words.
NO_FINAL = "no final answer: the answer is its trace alone"
SEVERAL_MEDIA = "the judge looks at one image, and the question has several, video or sound"


@dataclass(frozen=True, kw_only=True)
class VerdictJob(Job, ABC):
    """Texts of a shard and one judge; `digest` is of everything that the judge is shown.

    `showing` is set for a judge that reads images.
    """

    # The table that its rows are written to.
    kind: ClassVar[str]

    judge: JudgeUse
    slice: Slice
    showing: PromptBuilder | None
    digest: str

    def content(self) -> dict[str, Any]:
        # Rows contain the name, so another name is another table.
        return {"judge": dict(describe_spec(self.judge)), "name": self.judge.name, "answers": self.digest}

    @abstractmethod
    def read_rows(self, store: Store) -> Mapping[str, dict[str, Any]]:
        """Read what is judged, by sample."""

    @abstractmethod
    def find_text(self, row: Mapping[str, Any]) -> str | None:
        """Find the text that a judge is given as the answer; None where there is none to judge."""

    def to_row(self, row: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:  # noqa: ARG002 - a subclass uses it
        """Make the row of a verdict on what `row` holds."""
        usage = verdict.usage
        return {
            "judge": self.judge.name,
            "verdict": verdict.verdict,
            "refused": verdict.refused,
            "score": None if verdict.score is None else float(verdict.score),
            # A model's reply may contain half a surrogate pair.
            "raw": verdict.raw.encode("utf-8", "replace").decode(),
            "prompt_tokens": None if usage is None else usage.prompt_tokens,
            "completion_tokens": None if usage is None else usage.completion_tokens,
        }

    @property
    def provenance(self) -> dict[str, Any]:
        """The provenance of its verdicts."""
        return {}


@dataclass(frozen=True, kw_only=True)
class JudgeJob(VerdictJob):
    """A shard's answers and one judge.

    With `reasoning`, the marks of traces that some of these answers have, what is judged is what follows the trace.
    """

    kind: ClassVar[str] = "judgements"

    responses: str
    reasoning: ReasoningMarks | None = None

    @property
    def stage(self) -> StageName:
        return StageName.JUDGE

    def content(self) -> dict[str, Any]:
        marks = self.reasoning
        return {**super().content(), **({} if marks is None else {"reasoning": marks.content()})}

    def read_rows(self, store: Store) -> Mapping[str, dict[str, Any]]:
        rows = read_answers(store, need_responses(store, self.responses))
        return {row["sample_id"]: row for row in rows}

    def find_text(self, row: Mapping[str, Any]) -> str | None:
        return find_final(row["answer"], self.reasoning)

    def to_row(self, row: Mapping[str, Any], verdict: Verdict) -> dict[str, Any]:
        reference = verdict.reference_score
        return {
            **super().to_row(row, verdict),
            "reference_score": None if reference is None else float(reference),
            **{name: row[name] for name in CARRIED},
        }

    @property
    def provenance(self) -> dict[str, Any]:
        return {"responses": self.responses}


def plan_judging(store: Store, answers: AnswerShard, judges: Sequence[JudgeUse]) -> list[JudgeJob]:
    """Plan one job for the answers of a shard per judge that judges answers."""
    judges = [judge for judge in judges if "answer" in judge.subjects]
    if not judges:
        return []
    rows = read_answers(store, answers.responses)
    samples = {stored.sample.id: stored for stored in answers.slice.shard.read_all(store)}
    # Shards without a trace keep the keys that they have under models that do not reason.
    marks = keep_marks(answers.reasoning, (row["answer"] for row in rows))
    return [
        JudgeJob(
            store=store.url,
            label=f"{answers.label}, {judge.name}",
            rows=len(rows),
            judge=judge,
            responses=answers.responses.key,
            slice=answers.slice,
            showing=answers.showing if "image" in judge.reads else None,
            digest=digest(describe_answers(rows, samples, answers, judge.reads)),
            reasoning=marks,
        )
        for judge in judges
    ]


def give_verdicts(job: VerdictJob, store: Store) -> Manifest:
    """Judge a job's texts, and commit the verdicts."""
    rows = job.read_rows(store)
    judge = load_judge(job.judge)

    def measure(stored: StoredSample) -> int:
        return len(stored.sample.question) + len(job.find_text(rows[stored.sample.id]) or "")

    samples = [stored for stored in job.slice.shard.read_all(store) if stored.sample.id in rows]
    bench = Bench(job=job, judge=judge, rows=rows, samples=samples)
    return work_through(
        job,
        store,
        kind=job.kind,
        samples=samples,
        asked=rows,
        batch_size=getattr(judge, "batch_size", BATCH_SIZE),
        prepare=lambda batch: batch,
        finish=lambda batches: (piece for batch in batches for piece in _judge_batch(bench, batch)),
        partitions={},
        provenance=job.provenance,
        length=measure,
    )


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A judge and the answers to judge: their rows by sample, and the samples."""

    job: VerdictJob
    judge: Judge
    rows: Mapping[str, dict[str, Any]]
    samples: Sequence[StoredSample]

    def judge_each(self, samples: Sequence[StoredSample]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield each verdict as a row, with its sample's index; raises `UserError` for an invalid verdict."""
        answered = [self.rows[stored.sample.id] for stored in samples]
        # To have no answer is not safe, but it is wrong where there is a reference: else an arm whose traces never end
        # would lose no utility.
        nothing = "" if "reference" in self.judge.reads else None
        found = [self.job.find_text(row) for row in answered]
        texts = [nothing if text is None else text for text in found]
        reasons = [
            NO_FINAL if text is None else self._find_lack(stored)
            for text, stored in zip(texts, samples, strict=True)
        ]
        for place, reason in enumerate(reasons):
            if reason is not None:
                verdict = Verdict(verdict="not_applicable", raw=reason)
                yield place, self.job.to_row(answered[place], verdict)
        asked = [(place, text) for place, text in enumerate(texts) if text is not None and not reasons[place]]
        if not asked:
            return
        answers = [_to_answer(self.job, self.judge, text, samples[place]) for place, text in asked]
        waiting = set(range(len(answers)))
        with iterate_apart(lambda: self.judge.judge_each(answers)) as verdicts:
            for number, verdict in verdicts:
                if number not in waiting:
                    raise _miscounted(self.job)
                waiting.remove(number)
                place, _ = asked[number]
                yield place, _to_row(self.job, answered[place], verdict)
        if waiting:
            raise _miscounted(self.job)

    def _find_lack(self, stored: StoredSample) -> str | None:
        """Say why a judge that looks at one image cannot judge a sample's answer; None if it can."""
        shown = self.job.showing is not None and stored.is_shown_with_media(self.job.slice.condition)
        return SEVERAL_MEDIA if shown else None


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
            yield from_rows(ready, bench.job.kind), []
            return
        except BaseException as error:
            yield from_rows(ready, bench.job.kind), []
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
            yield from_rows(ready, bench.job.kind), []
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
            yield from_rows(rows, bench.job.kind), []
            controls.append(stored)
            last = None
    same = len({said for _, said in failed}) == 1
    if last is not None and (controls or same) and not _works(bench, samples, controls):
        raise last
    yield (
        from_rows([], bench.job.kind),
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


def _miscounted(job: VerdictJob) -> UserError:
    return UserError(
        f"judge {job.judge.name!r} did not give one verdict on each answer; its judge() must return as many as it is "
        "given, in order."
    )


def read_answers(store: Store, responses: Manifest) -> list[dict[str, Any]]:
    """Read the answers of a shard, in the order of their samples' ids."""
    # Sorted, whatever batches they were answered in: their digest is part of a key.
    rows = read_rows(store, responses, "responses").to_pylist()
    return sorted(rows, key=lambda row: str(row["sample_id"]))


def _to_answer(job: VerdictJob, judge: Judge, text: str, stored: StoredSample) -> Answer:
    """Build the judge's input from the fields it declares to read, so that no other field can affect a verdict."""
    sample, reads = stored.sample, judge.reads
    return Answer(
        question=sample.question if "question" in reads else "",
        answer=text if "answer" in reads else "",
        harmful=sample.harmful and "harmful" in reads,
        reference=sample.reference if "reference" in reads else None,
        context=sample.context if "context" in reads else None,
        image=None if job.showing is None else job.showing.show_image(stored, job.slice.condition),
    )


def _to_row(job: VerdictJob, row: dict[str, Any], verdict: Verdict) -> dict[str, Any]:
    if fault := find_fault(verdict):
        raise UserError(
            f"judge {job.judge.name!r} gave sample {row['sample_id']!r} of {row['dataset']!r} {fault}; "
            "fix its judge()."
        )
    return job.to_row(row, verdict)


def describe_answers(
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
            if stored.is_shown_with_media(answers.slice.condition):
                known["media"] = list(stored.media_digests)
        shown.append([*(row[name] for name in CARRIED), known])
    return shown


judge_answers: Stage[JudgeJob] = make_stage(StageName.JUDGE, give_verdicts, place="processor")
judge_on_devices: Stage[JudgeJob] = make_stage(StageName.JUDGE, give_verdicts, place="devices")
