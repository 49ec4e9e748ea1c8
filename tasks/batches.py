"""Work through a shard in batches, so that a killed worker loses only the rows since its last flush."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from cmrm.errors import UserError
from storage.manifest import Manifest
from storage.parquet import to_parquet
from storage.store import Source, Store
from storage.tables import from_rows, table_path, table_paths
from storage.writer import ShardWriter
from tasks.progress import report_rows
from tasks.samples import StoredSample
from tasks.stage import Job

log = logging.getLogger("cmrm.tasks")

Finished = tuple[pa.Table, Sequence[dict[str, Any]]]
Finish = Callable[[Sequence[StoredSample]], Iterable[Finished]]
Length = Callable[[StoredSample], int]

# What helps where a single sample does not fit, by stage.
REMEDY = "a smaller model.dtype (bfloat16, float16) or another model.device"
REMEDIES = {
    "generate": f"a smaller generation.max_new_tokens, {REMEDY}",
    "judge": "the judge a smaller dtype (bfloat16, float16) or another device, where it has these options",
}


def measure_question(stored: StoredSample) -> int:
    """How long a sample's question is."""
    return len(stored.sample.question)


def work_through(
    job: Job,
    store: Store,
    *,
    kind: str,
    samples: Sequence[StoredSample],
    batch_size: int,
    finish: Finish,
    partitions: dict[str, str],
    provenance: dict[str, Any],
    length: Length = measure_question,
) -> Manifest:
    """Finish a shard's samples batch by batch and commit them; those that a killed worker left are not done again.

    `finish` gives a batch's rows of table `kind` and the rows it set aside, at once or in pieces; they are written
    while it goes on. Samples of like `length` share a batch, short ones first. `provenance` is read at the end, and
    gets the batch size that was asked for and the smallest that had to be used. A batch that does not fit into memory
    is halved, and later ones are no larger; `UserError` for a single sample that does not fit.
    """
    quarantined: list[dict[str, Any]] = []
    with ShardWriter(store, job.stage, job.key, kind, partitions=partitions) as writer:

        def take(batch: Sequence[StoredSample], taken: set[str]) -> None:
            for rows, aside in finish(batch):
                writer.append(rows)
                quarantined.extend(aside)
                finished = {*rows["sample_id"].to_pylist(), *(row["sample_id"] for row in aside)}
                report_rows(len(finished))
                taken |= finished

        done = set(writer.resume("sample_id")["sample_id"].to_pylist())
        todo = [stored for stored in samples if stored.sample.id not in done]
        report_rows(len(samples) - len(todo))
        size = batch_size
        waiting = sorted(todo, key=length)
        while waiting:
            batch = waiting[:size]
            taken: set[str] = set()
            if _fits(partial(take, batch, taken)):
                del waiting[: len(batch)]
            else:
                # What was finished before memory ran out is not done again.
                waiting = [stored for stored in waiting if stored.sample.id not in taken]
                size = _halve(job, batch)
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


def _fits(work: Callable[[], None]) -> bool:
    """Do some work; False where memory did not suffice, once what the attempt held is given back."""
    try:
        work()
    except (RuntimeError, MemoryError) as error:
        # torch is imported where something has failed: judges that hold no model do without it.
        from cmrm.memory import is_out_of_memory, release_memory

        if not is_out_of_memory(error):
            raise
    else:
        return True
    # Not before here: the error and its traceback, which hold the attempt's tensors, are gone only now.
    release_memory()
    return False


def _halve(job: Job, batch: Sequence[StoredSample]) -> int:
    """The batch size to go on with after this batch did not fit; `UserError` if it was a single sample."""
    if len(batch) == 1:
        sample = batch[0].sample
        # What fits depends on the machine and not on the row, so the row is not set aside.
        raise UserError(
            f"{job.stage} {job.label}: the model ran out of memory on a single sample, {sample.id!r} of "
            f"{sample.dataset}. Give {REMEDIES.get(job.stage, REMEDY)}. What is finished is kept."
        )
    smaller = len(batch) // 2
    log.warning(
        "%s %s: out of memory on a batch of %d; going on with batches of %d",
        job.stage,
        job.label,
        len(batch),
        smaller,
    )
    return smaller
