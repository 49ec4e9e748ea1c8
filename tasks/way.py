"""One way of answering a slice, and its rows on their way to the store."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from storage.errors import StoreError
from storage.identity import digest
from storage.manifest import Manifest
from storage.store import Store
from storage.tables import from_rows
from storage.writer import ShardWriter
from tasks.commit import commit_shard
from tasks.generate_job import GenerateJob
from tasks.prompts import quarantine_row
from tasks.samples import StoredSample

if TYPE_CHECKING:
    from cmrm.answers import Answer
    from cmrm.faults import Fault

KIND = "responses"


class Way:
    """Takes the answers of one job and commits them under its key; `done` are the ids that need no answer any more.

    Leaving the `with` block keeps what came in, after an error too.
    """

    def __init__(self, job: GenerateJob, store: Store) -> None:
        self.job = job
        self.done: set[str] = set()
        self._store = store
        self._writer = ShardWriter(store, job.stage, job.key, KIND)
        self._ready: list[dict[str, Any]] = []
        self._aside: list[dict[str, Any]] = []
        self._acted: Counter[str] = Counter()
        self._distances: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # After an error that one is to be told, and not what comes of it.
            with nullcontext() if error is None else suppress(StoreError, MemoryError):
                self.hand_over()
        finally:
            self._writer.__exit__(kind, error, trace)

    def resume(self) -> None:
        """Take up the answers that a killed worker left."""
        self.done.update(self._writer.resume("sample_id")["sample_id"].to_pylist())

    def take(
        self,
        stored: StoredSample,
        answer: Answer,
        *,
        acted: Mapping[int, int],
        asked: Mapping[int, float],
        moved: Mapping[int, float],
    ) -> None:
        """Take an answer, or the place where the model's numbers stopped being finite.

        By block, `acted` counts the states that were moved; `asked` and `moved` say how far the prompt's was to be
        moved and how far it was.
        """
        for block, count in acted.items():
            self._acted[str(block)] += count
        if answer.fault is not None:
            self.set_aside(quarantine_row(stored, stage=self.job.stage, reason=_explain(answer.fault)))
            return
        for block, length in asked.items():
            self._distances[str(block)].append((length, moved[block]))
        self._ready.append(_describe(self.job, stored, answer))
        self.done.add(stored.sample.id)

    def set_aside(self, row: dict[str, Any]) -> None:
        """Take a sample that cannot be answered, as a row of `quarantine`."""
        self._aside.append(row)
        self.done.add(row["sample_id"])

    def hand_over(self) -> None:
        """Give the writer what has come in."""
        if self._ready:
            table = from_rows(self._ready, KIND)
            # Let go of between the two that may fail: no row is lost by an OOM before it, none written twice after it.
            self._ready = []
            self._writer.append(table)

    def commit(self, asked: Sequence[StoredSample], provenance: Mapping[str, Any]) -> Manifest:
        """Commit all answers, and the quarantine, under the job's key: together one for each sample asked for."""
        self.hand_over()
        return commit_shard(
            self.job,
            self._store,
            self._writer,
            asked=(stored.sample.id for stored in asked),
            kind=KIND,
            quarantined=self._aside,
            provenance={
                **provenance,
                "steered_states_since_resumed": dict(self._acted),
                "steered_distances_since_resumed": {
                    block: _summarize(distances) for block, distances in self._distances.items()
                },
            },
        )


def _summarize(distances: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean distances asked for and moved over prompts, and how many an αΔ above 0 left where they were."""
    return {
        "asked": fmean(asked for asked, _ in distances),
        "moved": fmean(moved for _, moved in distances),
        "prompts": len(distances),
        "without_effect": sum(moved == 0.0 < asked for asked, moved in distances),
    }


def _describe(job: GenerateJob, stored: StoredSample, answer: Answer) -> dict[str, Any]:
    return {
        "model": job.model.name,
        "dataset": stored.sample.dataset,
        "sample_id": stored.sample.id,
        "condition": job.slice.condition,
        "intervention": "" if job.steering is None else job.steering.name,
        "alpha": None if job.steering is None else job.steering.alpha,
        "level": None if job.steering is None else job.steering.level,
        "answer": answer.text,
        "answer_digest": digest(answer.text),
        "tokens": answer.tokens,
        "finish_reason": answer.finish_reason,
    }


def _explain(fault: Fault) -> str:
    where = "at the prompt" if fault.step == 0 else f"at generated token {fault.step}"
    what = (
        f"the logits are not finite {where}, though the states at all blocks are"
        if fault.block is None
        else f"the state at block {fault.block} is not finite {where}"
    )
    return f"{what}, so there is no answer; with dtype float16, use bfloat16 or float32"
