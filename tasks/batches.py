"""Work through a shard in batches, so that a killed worker loses only the rows since its last flush."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from storage.manifest import Manifest
from storage.parquet import to_parquet
from storage.store import Source, Store
from storage.tables import from_rows, table_path, table_paths
from storage.writer import ShardWriter
from tasks.progress import report_rows
from tasks.samples import StoredSample
from tasks.stage import Job

Finished = tuple[pa.Table, Sequence[dict[str, Any]]]


def work_through(
    job: Job,
    store: Store,
    *,
    kind: str,
    samples: Sequence[StoredSample],
    batch_size: int,
    finish: Callable[[Sequence[StoredSample]], Finished],
    partitions: dict[str, str],
    provenance: dict[str, Any],
) -> Manifest:
    """Finish a shard's samples batch by batch and commit them; those that a killed worker left are not done again.

    `finish` returns a batch's rows of table `kind` and the rows it set aside; they are written while the next batch
    is worked on. `provenance` is read at the end.
    """
    quarantined: list[dict[str, Any]] = []
    with ShardWriter(store, job.stage, job.key, kind, partitions=partitions) as writer:
        done = set(writer.resume("sample_id")["sample_id"].to_pylist())
        todo = [stored for stored in samples if stored.sample.id not in done]
        report_rows(len(samples) - len(todo))
        for batch in cut(todo, batch_size):
            rows, aside = finish(batch)
            writer.append(rows)
            quarantined.extend(aside)
            report_rows(len(batch))
        return commit_shard(
            job,
            store,
            writer,
            kind=kind,
            quarantined=quarantined,
            provenance=provenance,
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
    by_length = sorted(samples, key=lambda stored: len(stored.sample.question))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]
