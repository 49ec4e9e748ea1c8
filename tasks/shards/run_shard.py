"""Process a shard in batches, so that a killed worker loses only the rows since its last flush."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa

from cmrm.prompts.conditions import Condition
from storage.records.manifest import Manifest
from storage.shards.writer import ShardWriter
from storage.store import Store
from tasks.core.commit import commit_shard
from tasks.core.oom import run_in_fixed_batches, run_in_smaller_batches
from tasks.core.progress import report_rows
from tasks.core.stage import Job
from tasks.shards.batches import is_alone, split_batches
from tasks.shards.isolation import Isolation, run_past_failures
from tasks.shards.prefetch import make_thread, prefetch
from tasks.shards.prompts import quarantine_row
from tasks.shards.samples import StoredSample

Finished = tuple[pa.Table, Sequence[dict[str, Any]]]
Length = Callable[[StoredSample], Any]
# A batch prepared for the device, in the prefetch thread.
Batch = TypeVar("Batch")


def measure_question(stored: StoredSample) -> int:
    """The length of a sample's question, in characters."""
    return len(stored.sample.question)


def measure_beside(samples: Sequence[StoredSample], condition: Condition) -> Length:
    """Make a sort key that keeps samples with the same image adjacent, so that its prefill runs once."""
    if condition != "image":
        return measure_question
    longest: dict[str | None, int] = {}
    for stored in samples:
        image = stored.image_digest
        longest[image] = max(longest.get(image, 0), measure_question(stored))
    return lambda stored: (
        longest[stored.image_digest],
        stored.image_digest or "",
        measure_question(stored),
    )


def work_through(
    job: Job,
    store: Store,
    *,
    kind: str,
    samples: Sequence[StoredSample],
    asked: Iterable[str],
    batch_size: int,
    fixed_batch: int | None = None,
    prepare: Callable[[Sequence[StoredSample]], Batch],
    finish: Callable[[Iterator[Batch]], Iterable[Finished]],
    probe: Callable[[StoredSample], None] | None = None,
    partitions: dict[str, str],
    provenance: dict[str, Any],
    length: Length = measure_question,
    rows_each: int = 1,
) -> Manifest:
    """Process a shard's samples batch by batch and commit them; rows flushed by a killed worker are reused.

    `asked` are the ids that the job's input requires to be written or quarantined in the end. `prepare` prefetches a
    batch in a thread while the one before it is processed. `finish` consumes the batches and yields rows of table
    `kind` with the rows it quarantined, at once or in pieces; they are written in the background. Samples of similar
    `length` share a batch, short ones first; each has `rows_each` rows. `provenance` is read at the end, and gets the
    requested batch size and the smallest one used. After an OOM the batch is split in half, and later ones are no
    larger; an OOM on a single sample is a `UserError`. With `probe`, which runs a sample alone, samples on which the
    model fails are quarantined (`run_past_failures`). With `fixed_batch` every batch has that many samples, the same
    ones whatever was finished before and whatever memory is free; an OOM is then a `UserError`.
    """
    with (
        make_thread() as thread,
        ShardWriter(store, job.stage, job.key, kind, partitions=partitions) as writer,
    ):
        rows = _Rows(job, sorted(samples, key=lambda one: (is_alone(one), length(one))), writer)

        def take_all(size: int) -> None:
            batches = rows.hand_out(size) if fixed_batch is None else rows.hand_out_whole(size)
            with closing(prefetch(batches, prepare, thread)) as prepared:
                for table, quarantined in finish(prepared):
                    rows.take(table, quarantined)

        def take_all_but_failures(size: int) -> None:
            if probe is None:
                take_all(size)
            else:
                run_past_failures(job, partial(take_all, size), rows.isolate(probe))

        run = run_in_smaller_batches if fixed_batch is None else run_in_fixed_batches
        size = run(
            job,
            batch_size if fixed_batch is None else fixed_batch,
            take_all_but_failures,
            lambda: [stored.sample.id for stored in rows.list_waiting()],
        )
        return commit_shard(
            job,
            store,
            writer,
            asked=asked,
            kind=kind,
            quarantined=rows.quarantined,
            provenance={**provenance, "batch_size": batch_size, "smallest_batch_size": size},
            partitions=partitions,
            rows_each=rows_each,
        )


class _Rows:
    """The samples of a shard in processing order, and which of them are done or quarantined."""

    def __init__(self, job: Job, in_order: Sequence[StoredSample], writer: ShardWriter) -> None:
        self.quarantined: list[dict[str, Any]] = []
        self._job = job
        self._in_order = in_order
        self._writer = writer
        self._done = set(writer.resume("sample_id")["sample_id"].to_pylist())
        self._in_flight: list[StoredSample] = []
        self._failed: set[str] = set()
        report_rows(sum(stored.sample.id in self._done for stored in in_order))

    def list_waiting(self) -> list[StoredSample]:
        """The samples that are neither written nor quarantined."""
        return [stored for stored in self._in_order if stored.sample.id not in self._done]

    def hand_out(self, size: int) -> Iterator[Sequence[StoredSample]]:
        """Batches of the waiting samples."""
        waiting = self.list_waiting()
        self._in_flight = []
        for batch in split_batches(waiting, size):
            self._in_flight = [*self._list_in_flight(), *batch]
            yield batch

    def hand_out_whole(self, size: int) -> Iterator[Sequence[StoredSample]]:
        """Fixed batches with any waiting sample; samples on which the model fails are left out."""
        waiting = {stored.sample.id for stored in self.list_waiting()}
        self._in_flight = []
        for batch in split_batches(self._in_order, size):
            if any(stored.sample.id in waiting for stored in batch):
                self._in_flight = [*self._list_in_flight(), *batch]
                yield [stored for stored in batch if stored.sample.id not in self._failed]

    def take(self, table: pa.Table, quarantined: Sequence[dict[str, Any]]) -> None:
        """Write rows, and keep quarantined ones for the commit; drop rows of samples that are already done."""
        ids = table["sample_id"].to_pylist()
        if not self._done.isdisjoint(ids):
            table = table.filter(pa.array([one not in self._done for one in ids], pa.bool_()))
        quarantined = [row for row in quarantined if row["sample_id"] not in self._done]
        self._writer.append(table)
        self.quarantined.extend(quarantined)
        self._finish({*table["sample_id"].to_pylist(), *(row["sample_id"] for row in quarantined)})

    def isolate(self, probe: Callable[[StoredSample], None]) -> Isolation:
        """The callbacks that find the samples on which the model fails, among the unfinished ones in flight."""
        return Isolation(
            list_suspects=self._list_in_flight,
            list_controls=self._list_controls,
            probe=probe,
            quarantine=self._quarantine,
        )

    def _list_in_flight(self) -> list[StoredSample]:
        return [stored for stored in self._in_flight if stored.sample.id not in self._done]

    def _list_controls(self) -> list[StoredSample]:
        apart = {stored.sample.id for stored in self._list_in_flight()}
        apart.update(row["sample_id"] for row in self.quarantined)
        others = [stored for stored in self._in_order if stored.sample.id not in apart]
        return sorted(others, key=lambda stored: stored.sample.id not in self._done)

    def _quarantine(self, stored: StoredSample, reason: str) -> None:
        self._failed.add(stored.sample.id)
        self.quarantined.append(quarantine_row(stored, stage=self._job.stage, reason=reason))
        self._finish({stored.sample.id})

    def _finish(self, ids: set[str]) -> None:
        self._done.update(ids)
        report_rows(len(ids))


def cut(samples: Sequence[StoredSample], size: int) -> Iterator[Sequence[StoredSample]]:
    """Cut batches of at most `size`, with questions of similar length together, so that padding stays small."""
    yield from split_batches(sorted(samples, key=measure_question), size)
