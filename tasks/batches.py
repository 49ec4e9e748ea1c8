"""Work through a shard in batches, so that a killed worker loses only the rows since its last flush."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from typing import Any, TypeVar

import pyarrow as pa

from cmrm.conditions import Condition
from storage.manifest import Manifest
from storage.store import Store
from storage.writer import ShardWriter
from tasks.ahead import ahead, make_thread
from tasks.commit import commit_shard
from tasks.oom import run_in_smaller_batches
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
    asked: Iterable[str],
    batch_size: int,
    prepare: Callable[[Sequence[StoredSample]], Batch],
    finish: Callable[[Iterator[Batch]], Iterable[Finished]],
    partitions: dict[str, str],
    provenance: dict[str, Any],
    length: Length = measure_question,
    rows_each: int = 1,
) -> Manifest:
    """Finish a shard's samples batch by batch and commit them; those that a killed worker left are not done again.

    `asked` are the ids that have to be written or quarantined in the end, by the job's input. `prepare` makes a batch
    ready, in a thread, while the one before it is worked on. `finish` takes the batches as they come and gives rows of
    table `kind` and the rows it quarantined, at once or in pieces; they are written while it goes on. Samples of like
    `length` share a batch, short ones first; each has `rows_each` rows. `provenance` is read at the end, and gets the
    batch size that was asked for and the smallest that had to be used. A batch that does not fit into memory is halved,
    and later ones are no larger; `UserError` for a single sample that does not fit.
    """
    quarantined: list[dict[str, Any]] = []
    with (
        make_thread() as thread,
        ShardWriter(store, job.stage, job.key, kind, partitions=partitions) as writer,
    ):
        done = set(writer.resume("sample_id")["sample_id"].to_pylist())
        in_order = sorted(samples, key=length)
        report_rows(sum(stored.sample.id in done for stored in samples))

        def list_waiting() -> list[StoredSample]:
            return [stored for stored in in_order if stored.sample.id not in done]

        def take_all(size: int) -> None:
            waiting = list_waiting()
            batches = (waiting[start : start + size] for start in range(0, len(waiting), size))
            with closing(ahead(batches, prepare, thread)) as prepared:
                for rows, aside in finish(prepared):
                    writer.append(rows)
                    quarantined.extend(aside)
                    finished = {*rows["sample_id"].to_pylist(), *(row["sample_id"] for row in aside)}
                    report_rows(len(finished))
                    done.update(finished)

        size = run_in_smaller_batches(
            job, batch_size, take_all, lambda: [stored.sample.id for stored in list_waiting()]
        )
        return commit_shard(
            job,
            store,
            writer,
            asked=asked,
            kind=kind,
            quarantined=quarantined,
            provenance={**provenance, "batch_size": batch_size, "smallest_batch_size": size},
            partitions=partitions,
            rows_each=rows_each,
        )


def cut(samples: Sequence[StoredSample], size: int) -> Iterator[Sequence[StoredSample]]:
    """Batches of at most `size`, questions of like length together, so that little is padded."""
    by_length = sorted(samples, key=measure_question)
    for start in range(0, len(by_length), size):
        yield by_length[start : start + size]
