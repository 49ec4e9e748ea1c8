"""Work through a shard in batches, so that a killed worker loses only the rows since its last flush."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from storage.manifest import Manifest
from storage.parts import PartWriter
from storage.schemas import KINDS
from storage.store import Store
from storage.tables import from_rows, table_path, to_parquet
from tasks.progress import report_rows
from tasks.samples import StoredSample
from tasks.stage import Job

# A part of 8,192 states of a 7-billion-parameter model is 64 MB; time closes parts of slower stages.
PART_ROWS = 8192

Finished = tuple[pa.Table, Sequence[dict[str, Any]]]


def work_through(
    job: Job,
    store: Store,
    *,
    kind: str,
    ids: Sequence[str],
    samples: Sequence[StoredSample],
    batch_size: int,
    finish: Callable[[Sequence[StoredSample]], Finished],
) -> tuple[pa.Table, list[dict[str, Any]]]:
    """Finish a shard's samples batch by batch; those in parts that a killed worker left are not done again.

    `finish` returns a batch's rows of table `kind` and the rows it set aside. Returns all rows and all set aside.
    """
    quarantined: list[dict[str, Any]] = []
    with PartWriter(store, job.stage, job.key, KINDS[kind].schema, max_rows=PART_ROWS) as writer:
        done = writer.done("sample_id")
        todo = [stored for stored in samples if stored.sample.id not in done]
        report_rows(len(samples) - len(todo))
        for batch in cut(todo, batch_size):
            rows, aside = finish(batch)
            writer.append(rows)
            quarantined.extend(aside)
            report_rows(len(batch))
        writer.flush()
        return writer.read(*ids), quarantined


def commit_rows(
    job: Job,
    store: Store,
    *,
    kind: str,
    rows: pa.Table,
    quarantined: Sequence[dict[str, Any]],
    partitions: dict[str, str],
    provenance: dict[str, Any],
) -> Manifest:
    """Commit a shard's rows, and what was set aside where there is any, under the job's key; then drop its parts."""
    files = {table_path(kind, job.key, **partitions): to_parquet(rows, kind)}
    if quarantined:
        table = from_rows(quarantined, "quarantine")
        files[table_path("quarantine", job.key)] = to_parquet(table, "quarantine")
    manifest = store.commit(job.stage, job.key, files, content=job.content(), provenance=provenance)
    PartWriter(store, job.stage, job.key, KINDS[kind].schema, max_rows=PART_ROWS).discard()
    return manifest


def cut(samples: Sequence[StoredSample], size: int) -> Iterator[Sequence[StoredSample]]:
    """Batches of at most `size`, questions of like length together, so that little is padded."""
    by_length = sorted(samples, key=lambda stored: len(stored.sample.question))
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]
