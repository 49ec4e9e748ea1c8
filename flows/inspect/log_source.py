"""A finished run as the contents of its logs: the answers of one arm to one data set, and the verdicts on them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from flows.plan.finished import STAGES, FinishedRun, find_answers, read_finished
from storage.errors import StoreError
from storage.records.manifest import Manifest
from storage.shards.rows import iterate_all, need_manifest, read_rows
from storage.store import Store
from tasks.core.quarantine import read_quarantine
from tasks.core.stage_name import StageName
from tasks.judge.texts import TEXTS
from tasks.report.outcomes import Arm, find_arm
from tasks.report.table import sort_arms
from tasks.shards.answers import AnswerShard
from tasks.shards.samples import StoredSample

# Hidden states and timings are in no log, and verifying them would read most of a store.
READ = tuple(
    one for one in STAGES if one not in {StageName.EXTRACT_STATES, StageName.PROBE, StageName.OVERHEAD}
)
ARM = ("model", "condition", "intervention", "alpha")
ANSWER = ("sample_id", "answer", "answer_digest", "tokens", "prompt_tokens", "finish_reason")
VERDICT = (
    "judge",
    "sample_id",
    "verdict",
    "refused",
    "score",
    "raw",
    "prompt_tokens",
    "completion_tokens",
)

Row = Mapping[str, Any]


class LogName(NamedTuple):
    """What one log is about: an arm and a data set."""

    arm: Arm
    dataset: str


@dataclass(frozen=True, kw_only=True)
class AskedSample:
    """A sample that an arm was asked: its answer as the row of `responses`, or why there is none."""

    stored: StoredSample
    shard: AnswerShard
    answer: Row | None
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class LogSource:
    """The answers of one arm to one data set, shard by shard, and the manifests of the verdicts on them.

    `judged` are verdicts on answers; `texts` those on traces, and on the data set's questions alone.
    """

    name: LogName
    shards: tuple[AnswerShard, ...]
    judged: tuple[Manifest, ...]
    texts: tuple[Manifest, ...]

    @property
    def content(self) -> Mapping[str, Any]:
        """What the key of its answers holds, of the first shard; shards differ in their samples alone."""
        return self.shards[0].responses.content

    def list_manifests(self) -> list[Manifest]:
        """List the manifests of answers and verdicts."""
        return [*(one.responses for one in self.shards), *self.judged, *self.texts]

    def list_samples(self, store: Store) -> Iterator[StoredSample]:
        """List the samples that were asked; those of one shard are in memory."""
        for shard in self.shards:
            yield from shard.slice.shard.read(store, shard.slice.condition)

    def read(self, store: Store) -> Iterator[AskedSample]:
        """Read what was asked, shard by shard; raises `StoreError` if a sample has neither an answer nor a reason."""
        for shard in self.shards:
            rows = read_rows(store, shard.responses, "responses", ANSWER).to_pylist()
            answers = {row["sample_id"]: row for row in rows}
            reasons = {row["sample_id"]: row["reason"] for row in read_quarantine(store, [shard.responses])}
            for stored in shard.slice.shard.read(store, shard.slice.condition):
                answer, reason = answers.get(stored.sample.id), reasons.get(stored.sample.id)
                if answer is None and reason is None:
                    raise StoreError(
                        f"{shard.label}: sample {stored.sample.id!r} has neither an answer nor a reason in "
                        f"{shard.responses.key[:12]}; cmrm store verify says more"
                    )
                yield AskedSample(stored=stored, shard=shard, answer=answer, reason=reason)

    def read_verdicts(self, store: Store) -> Iterator[Row]:
        """Read the verdicts as rows of `judgements`, those on other texts too: their judge is named after the text."""
        yield from iterate_all(store, self.judged, "judgements", (*VERDICT, "reference_score"))
        for row in iterate_all(store, self.texts, TEXTS, (*VERDICT, "subject")):
            yield {**row, "judge": f"{row['judge']}_{row['subject']}", "reference_score": None}

    def read_unjudged(self, store: Store) -> dict[str, dict[str, str]]:
        """Read why judges have no verdict on answers, by sample and judge."""
        reasons: dict[str, dict[str, str]] = {}
        for manifest in (*self.judged, *self.texts):
            judge = str(manifest.content["name"])
            if (subject := manifest.content.get("subject")) is not None:
                judge = f"{judge}_{subject}"
            for row in read_quarantine(store, [manifest]):
                reasons.setdefault(row["sample_id"], {})[judge] = row["reason"]
        return reasons


@dataclass(frozen=True, kw_only=True)
class RunSource:
    """A finished run with the sources of its logs, in the order of its report."""

    run: FinishedRun
    logs: tuple[LogSource, ...]

    @property
    def store(self) -> Store:
        """The store of the run."""
        return self.run.plan.store


def read_run(store: Store, name: str) -> RunSource:
    """Read a run, by id or `latest`; raises `UserError` if it is not finished or not whole, and `StoreError`."""
    run = read_finished(store, name, stages=READ)
    shards: dict[LogName, list[AnswerShard]] = {}
    places: dict[str, LogName] = {}
    for answers in find_answers(run):
        found = LogName(find_arm(answers.responses.content), answers.slice.shard.dataset)
        shards.setdefault(found, []).append(answers)
        places[answers.responses.key] = found
    judged: dict[LogName, list[Manifest]] = {}
    for made in _list_made(run, StageName.JUDGE):
        if (place := _find_place(store, made, "judgements", places)) is not None:
            judged.setdefault(place, []).append(made)
    texts: dict[LogName, list[Manifest]] = {}
    asked: dict[str, list[Manifest]] = {}
    for made in _list_made(run, StageName.JUDGE_TEXTS):
        if made.content["subject"] == "question":
            for dataset in _list_datasets(store, made):
                asked.setdefault(dataset, []).append(made)
        elif (place := _find_place(store, made, TEXTS, places)) is not None:
            texts.setdefault(place, []).append(made)
    arms = sort_arms(dict.fromkeys(one.arm for one in shards), list(run.report.content["settings"]))
    names = sorted(shards, key=lambda one: arms.index(one.arm))
    return RunSource(
        run=run,
        logs=tuple(
            LogSource(
                name=one,
                shards=tuple(shards[one]),
                judged=tuple(judged.get(one, ())),
                texts=(*texts.get(one, ()), *asked.get(one.dataset, ())),
            )
            for one in names
        ),
    )


def _list_made(run: FinishedRun, stage: StageName) -> Iterator[Manifest]:
    for key in run.report.content["used"].get(stage, ()):
        yield need_manifest(run.plan.store, stage, key)


def _find_place(store: Store, made: Manifest, kind: str, places: Mapping[str, LogName]) -> LogName | None:
    """Find what verdicts are about: by the answers that were judged, or if those have another key by the rows.

    None without rows.
    """
    if (place := places.get(str(made.provenance.get("responses")))) is not None:
        return place
    rows = read_rows(store, made, kind, (*ARM, "dataset")).slice(0, 1).to_pylist()
    return LogName(Arm(*(rows[0][name] for name in ARM)), rows[0]["dataset"]) if rows else None


def _list_datasets(store: Store, made: Manifest) -> Sequence[str]:
    return list(dict.fromkeys(read_rows(store, made, TEXTS, ("dataset",))["dataset"].to_pylist()))
