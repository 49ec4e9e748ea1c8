"""Write the answers of one arm on one shard to the store, and commit them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from statistics import fmean
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from storage.errors import StoreError
from storage.records.manifest import Manifest
from storage.shards.writer import ShardWriter
from storage.store import Store
from storage.tables.arrow import from_rows
from tasks.core.commit import commit_shard
from tasks.generate.job import GenerateJob
from tasks.shards.prompts import quarantine_row
from tasks.shards.samples import StoredSample

if TYPE_CHECKING:
    from cmrm.decoding.nonfinite import Fault
    from cmrm.decoding.requests import Answer
    from cmrm.steering.proof import SteeringProof


class AnswerWriter:
    """Collects the answers of one job and commits them under its key; `done` are the ids already answered.

    `thread` is the one in which all writers of a job group write.
    Leaving the `with` block flushes the collected answers, after an error too.
    """

    def __init__(self, job: GenerateJob, store: Store, *, thread: ThreadPoolExecutor | None = None) -> None:
        self.job = job
        self.done: set[str] = set()
        self._store = store
        self._writer = ShardWriter(store, job.stage, job.key, job.kind, thread=thread)
        self._ready: list[dict[str, Any]] = []
        self._quarantined: list[dict[str, Any]] = []
        self._acted: Counter[str] = Counter()
        self._distances: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # After an error, raise that one and not its consequences.
            with nullcontext() if error is None else suppress(StoreError, MemoryError):
                self.flush()
        finally:
            self._writer.__exit__(kind, error, trace)

    def resume(self) -> None:
        """Take over the answers that a killed worker flushed."""
        self.done.update(self._writer.resume("sample_id")["sample_id"].to_pylist())

    def take(self, stored: StoredSample, answer: Answer, *, proof: SteeringProof | None) -> None:
        """Take an answer, or quarantine the sample if the answer has a NaN or inf fault; a baseline has no proof."""
        if proof is not None:
            self._acted.update({str(block): count for block, count in proof.acted.items()})
        if answer.fault is not None:
            self.quarantine(quarantine_row(stored, stage=self.job.stage, reason=explain_fault(answer.fault)))
            return
        if (lack := self.job.find_lack(answer)) is not None:
            self.quarantine(quarantine_row(stored, stage=self.job.stage, reason=lack))
            return
        if proof is not None:
            for block, length in proof.asked.items():
                self._distances[str(block)].append((length, proof.distance[block]))
        self._ready.append(self.job.to_row(stored, answer))
        self.done.add(stored.sample.id)

    def quarantine(self, row: dict[str, Any]) -> None:
        """Take the `quarantine` row of a sample that cannot be answered."""
        self._quarantined.append(row)
        self.done.add(row["sample_id"])

    def flush(self) -> None:
        """Pass the collected answers to the shard writer."""
        if self._ready:
            table = from_rows(self._ready, self.job.kind)
            # Cleared between the two calls that may fail: an OOM before it loses no row, one after it duplicates none.
            self._ready = []
            self._writer.append(table)

    def commit(self, asked: Sequence[StoredSample], provenance: Mapping[str, Any]) -> Manifest:
        """Commit all answers, and the quarantine, under the job's key: together one for each requested sample."""
        self.flush()
        return commit_shard(
            self.job,
            self._store,
            self._writer,
            asked=(stored.sample.id for stored in asked),
            kind=self.job.kind,
            quarantined=self._quarantined,
            provenance={
                **provenance,
                "steered_states_since_resumed": dict(self._acted),
                "steered_distances_since_resumed": {
                    block: _summarize(distances) for block, distances in self._distances.items()
                },
            },
        )


def _summarize(distances: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Mean requested and actual distances over prompts, and how many prompts an αΔ above 0 did not move."""
    return {
        "asked": fmean(asked for asked, _ in distances),
        "moved": fmean(moved for _, moved in distances),
        "prompts": len(distances),
        "without_effect": sum(moved == 0.0 < asked for asked, moved in distances),
    }


def explain_fault(fault: Fault) -> str:
    """Say where numbers stopped being finite, and what helps."""
    where = "at the prompt" if fault.step == 0 else f"at generated token {fault.step}"
    what = (
        f"the logits are not finite {where}, though the states at all blocks are"
        if fault.block is None
        else f"the state at block {fault.block} is not finite {where}"
    )
    return f"{what}, so there is no answer; with dtype float16, use bfloat16 or float32"
