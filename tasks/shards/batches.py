"""Batches of samples, whose prompts are prefilled together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cmrm.prompts.media import goes_alone
from tasks.shards.samples import StoredSample


def split_batches(samples: Sequence[StoredSample], size: int) -> Iterator[Sequence[StoredSample]]:
    """Split samples in their order into batches of at most `size`, and those with video or sound each by itself."""
    batch: list[StoredSample] = []
    for stored in samples:
        if is_alone(stored):
            if batch:
                yield batch
            yield [stored]
            batch = []
            continue
        batch.append(stored)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def is_alone(stored: StoredSample) -> bool:
    """Whether the prompts of a sample are prefilled by themselves."""
    return goes_alone(medium.kind for medium in stored.sample.media)
