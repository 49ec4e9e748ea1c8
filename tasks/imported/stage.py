"""Import another system's answers as an imported arm: responses like those of `generate`, but none is decoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cmrm.errors import UserError
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.commit import Rows, commit_rows
from tasks.core.progress import report_rows
from tasks.core.stage import Job, make_joining_stage
from tasks.core.stage_name import StageName
from tasks.imported.files import AnswersFile
from tasks.imported.given_answer import GivenAnswer
from tasks.imported.inspect_logs import name_reader
from tasks.imported.survey import SurveyedAnswers
from tasks.shards.answers import REASONING, AnswerShard
from tasks.shards.prompts import PromptBuilder, quarantine_row
from tasks.shards.samples import Slice, StoredSample
from tasks.shards.stimuli import STIMULI

# Part of the key: raise it when the same file yields other rows.
VERSION = 2
# Shards that one reading of the file serves; their answers are in memory together.
MOST_SHARDS = 32
NOT_GIVEN = "its file has no answer to this sample"


@dataclass(frozen=True, kw_only=True)
class ImportJob(Job):
    """One shard of the targets under one condition, answered by another system: the file, and its digest.

    `slice` and `showing` are those of the run's own plain answers, with which these are compared; so are `image`, the
    recipe of the meaningless one if any, and `stimuli`, what was shown of it: judges that look at images see the same.
    """

    file: AnswersFile
    digest: str
    made_by: Mapping[str, str] = field(hash=False)
    slice: Slice
    showing: PromptBuilder
    image: Mapping[str, Any] | None = field(hash=False)
    stimuli: Mapping[str, Any] = field(hash=False)

    @property
    def stage(self) -> StageName:
        return StageName.IMPORT_ANSWERS

    def content(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "name": self.file.name,
            "condition": self.slice.condition,
            "image": None if self.image is None else dict(self.image),
            "samples": self.slice.digest,
            "intervention": None,
            "intervention_name": "",
            "answers": {"file": self.digest, **self.file.content()},
        }

    def as_answered(self, responses: Manifest) -> AnswerShard:
        """Make the judges' input from the job's responses."""
        return AnswerShard(
            slice=self.slice,
            showing=self.showing,
            responses=responses,
            label=self.label,
            reasoning=self.file.reasoning,
        )


@dataclass(frozen=True, kw_only=True)
class ImportGroup(Job):
    """Shards of one file, which is read once for all; each is committed under its own key."""

    jobs: tuple[ImportJob, ...]

    @property
    def stage(self) -> StageName:
        return StageName.IMPORT_ANSWERS

    def content(self) -> dict[str, Any]:
        return {"joined": [job.key for job in self.jobs]}

    def members(self) -> Sequence[Job]:
        return self.jobs


def plan_imports(store: Store, surveyed: SurveyedAnswers, plain: Iterable[AnswerShard]) -> list[ImportJob]:
    """Plan one job for each shard of plain answers that the file has answers to, by data set and condition."""
    return [
        ImportJob(
            store=store.url,
            label=f"{answers.slice.label}, {surveyed.file.name}",
            rows=answers.slice.rows,
            file=surveyed.file,
            digest=surveyed.digest,
            made_by=surveyed.made_by,
            slice=answers.slice,
            showing=answers.showing,
            image=answers.responses.content["image"],
            stimuli=answers.responses.provenance.get(STIMULI, {}),
        )
        for answers in plain
        if (answers.slice.shard.dataset, answers.slice.condition) in surveyed.used
    ]


def join_imports(jobs: Sequence[ImportJob]) -> list[Job]:
    """Join the shards of each file, at most `MOST_SHARDS` at a time."""
    by_file: dict[tuple[str, str], list[ImportJob]] = {}
    for job in jobs:
        by_file.setdefault((job.file.name, job.digest), []).append(job)
    return [
        _join(own[start : start + MOST_SHARDS])
        for own in by_file.values()
        for start in range(0, len(own), MOST_SHARDS)
    ]


def _join(jobs: Sequence[ImportJob]) -> Job:
    if len(jobs) == 1:
        return jobs[0]
    first = jobs[0]
    return ImportGroup(
        store=first.store,
        label=f"{first.file.name}, {len(jobs)} shards",
        rows=sum(job.rows for job in jobs),
        jobs=tuple(jobs),
    )


def import_answers(jobs: Sequence[ImportJob], store: Store) -> list[Manifest]:
    """Read the file of some jobs once, and commit each: rows of `responses`, and the samples without an answer."""
    file = jobs[0].file
    if file.digest() != jobs[0].digest:
        raise UserError(
            f"{file.where}: changed since this run began; run the spec again, which reads it anew."
        )
    samples = {job.key: job.slice.shard.read(store, job.slice.condition) for job in jobs}
    places: dict[tuple[str, str, str], ImportJob] = {
        (job.slice.shard.dataset, job.slice.condition, stored.sample.id): job
        for job in jobs
        for stored in samples[job.key]
    }
    datasets = {job.slice.shard.dataset for job in jobs}
    found: dict[str, dict[str, GivenAnswer]] = {job.key: {} for job in jobs}
    for given in file.read():
        # An id is in one data set alone where a row names none: the survey has made sure.
        for dataset in datasets if given.dataset is None else {given.dataset}:
            job = places.get((dataset, given.condition, given.sample_id))
            if job is not None:
                found[job.key][given.sample_id] = given
    return [_commit(job, store, samples[job.key], found[job.key]) for job in jobs]


def _commit(
    job: ImportJob, store: Store, samples: Sequence[StoredSample], found: Mapping[str, GivenAnswer]
) -> Manifest:
    rows, quarantined = [], []
    for stored in samples:
        given = found.get(stored.sample.id)
        fault = NOT_GIVEN if given is None else given.fault
        if given is None or fault:
            reason = f"{job.file.name}: {fault}"
            quarantined.append(quarantine_row(stored, stage=job.stage, reason=reason))
        else:
            rows.append(_to_row(job, stored, given))
    manifest = commit_rows(
        job,
        store,
        kind="responses",
        table=from_rows(rows, "responses"),
        rows=Rows(
            asked=[stored.sample.id for stored in samples],
            written=[row["sample_id"] for row in rows],
            quarantined=[row["sample_id"] for row in quarantined],
        ),
        quarantined=quarantined,
        provenance=_trace(job),
    )
    report_rows(len(samples))
    return manifest


def _to_row(job: ImportJob, stored: StoredSample, given: GivenAnswer) -> dict[str, Any]:
    return {
        "model": job.file.name,
        "dataset": stored.sample.dataset,
        "sample_id": stored.sample.id,
        "condition": job.slice.condition,
        "intervention": "",
        "alpha": None,
        "level": None,
        "answer": given.text,
        "answer_digest": digest(given.text),
        "tokens": given.tokens,
        "finish_reason": given.finish_reason,
        "prompt_tokens": given.prompt_tokens,
    }


def _trace(job: ImportJob) -> dict[str, Any]:
    """Where the answers come from: the file's name and digest, and what an Inspect log says of itself."""
    marks = job.file.reasoning
    return {
        "answered": "elsewhere",
        "file": job.file.shown,
        "file_digest": job.digest,
        **({STIMULI: dict(job.stimuli)} if job.stimuli else {}),
        **({"made_by": dict(job.made_by), "read_by": name_reader()} if job.made_by else {}),
        **({} if marks is None else {REASONING: marks.content()}),
    }


import_answers_stage = make_joining_stage(
    StageName.IMPORT_ANSWERS, import_answers, join=join_imports, place="processor"
)
