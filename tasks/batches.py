"""Work through a shard in batches, so that a killed worker loses only the rows since its last flush."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from types import MappingProxyType
from typing import Any, TypeVar

import pyarrow as pa

from cmrm.conditions import Condition
from storage.manifest import Manifest
from storage.parquet import to_parquet
from storage.store import Source, Store
from storage.tables import from_rows, table_path, table_paths
from storage.writer import ShardWriter
from tasks.ahead import ahead, make_thread
from tasks.fitting import fits, halve
from tasks.progress import report_rows
from tasks.samples import StoredSample
from tasks.stage import Job

Finished = tuple[pa.Table, Sequence[dict[str, Any]]]
Length = Callable[[StoredSample], Any]
# A batch made ready for the device, in a thread.
Batch = TypeVar("Batch")


def measure_question(stored: StoredSample) -> int:
    """How long a sample's question is."""
    return len(stored.sample.question)


def measure_beside(samples: Sequence[StoredSample], condition: Condition) -> Length:
    """A length by which samples that show the same image of their own stand beside each other: it is read once."""
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
    batch_size: int,
    prepare: Callable[[Sequence[StoredSample]], Batch],
    finish: Callable[[Iterator[Batch]], Iterable[Finished]],
    partitions: dict[str, str],
    provenance: dict[str, Any],
    length: Length = measure_question,
) -> Manifest:
    """Finish a shard's samples batch by batch and commit them; those that a killed worker left are not done again.

    `prepare` makes a batch ready, in a thread, while the one before it is worked on. `finish` takes the batches as they
    come and gives rows of table `kind` and the rows it set aside, at once or in pieces; they are written while it goes
    on. Samples of like `length` share a batch, short ones first. `provenance` is read at the end, and gets the batch
    size that was asked for and the smallest that had to be used. A batch that does not fit into memory is halved, and
    later ones are no larger; `UserError` for a single sample that does not fit.
    """
    quarantined: list[dict[str, Any]] = []
    with (
        make_thread() as thread,
        ShardWriter(store, job.stage, job.key, kind, partitions=partitions) as writer,
    ):
        done = set(writer.resume("sample_id")["sample_id"].to_pylist())
        waiting = sorted((stored for stored in samples if stored.sample.id not in done), key=length)
        report_rows(len(samples) - len(waiting))
        size = batch_size
        drawn: Sequence[StoredSample] = ()

        def draw(batches: Iterable[tuple[Sequence[StoredSample], Batch]]) -> Iterator[Batch]:
            nonlocal drawn
            for batch, prepared in batches:
                drawn = batch
                yield prepared

        def take_all() -> None:
            cuts = (waiting[start : start + size] for start in range(0, len(waiting), size))
            with closing(ahead(cuts, lambda batch: (batch, prepare(batch)), thread)) as batches:
                for rows, aside in finish(draw(batches)):
                    writer.append(rows)
                    quarantined.extend(aside)
                    finished = {*rows["sample_id"].to_pylist(), *(row["sample_id"] for row in aside)}
                    report_rows(len(finished))
                    done.update(finished)

        while not fits(take_all):
            # What was finished before memory ran out is not done again.
            waiting = [stored for stored in waiting if stored.sample.id not in done]
            size = halve(job, drawn)
        return commit_shard(
            job,
            store,
            writer,
            kind=kind,
            quarantined=quarantined,
            provenance={**provenance, "batch_size": batch_size, "smallest_batch_size": size},
            partitions=partitions,
        )


def commit_shard(
    job: Job,
    store: Store,
    writer: ShardWriter,
    *,
    kind: str,
    quarantined: Sequence[dict[str, Any]],
    provenance: dict[str, Any],
    partitions: Mapping[str, str] = MappingProxyType({}),
) -> Manifest:
    """Commit what a writer has of a shard, and what was set aside, under the job's key; then drop its parts."""
    written = writer.finish()
    paths = table_paths(kind, job.key, len(written), **partitions)
    files = dict(zip(paths, written, strict=True))
    manifest = _commit_files(job, store, files=files, quarantined=quarantined, provenance=provenance)
    writer.discard()
    return manifest


def commit_rows(
    job: Job,
    store: Store,
    *,
    kind: str,
    rows: pa.Table,
    quarantined: Sequence[dict[str, Any]],
    provenance: dict[str, Any],
) -> Manifest:
    """Commit rows that are all in memory, and what was set aside where there is any, under the job's key."""
    files: dict[str, Source] = {table_path(kind, job.key): to_parquet(rows, kind)}
    return _commit_files(job, store, files=files, quarantined=quarantined, provenance=provenance)


def _commit_files(
    job: Job,
    store: Store,
    *,
    files: Mapping[str, Source],
    quarantined: Sequence[dict[str, Any]],
    provenance: dict[str, Any],
) -> Manifest:
    """Commit a job's files, and what was set aside where there is any, under its key."""
    everything = dict(files)
    if quarantined:
        table = from_rows(quarantined, "quarantine")
        everything[table_path("quarantine", job.key)] = to_parquet(table, "quarantine")
    return store.commit(job.stage, job.key, everything, content=job.content(), provenance=provenance)


def cut(samples: Sequence[StoredSample], size: int) -> Iterator[Sequence[StoredSample]]:
    """Batches of at most `size`, questions of like length together, so that little is padded."""
    by_length = sorted(samples, key=measure_question)
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]
