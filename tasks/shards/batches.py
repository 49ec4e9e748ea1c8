"""Batches of samples, whose prompts are prefilled together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from cmrm.prompts.media import goes_alone
from tasks.shards.samples import StoredSample

Item = TypeVar("Item")


def split_batches(samples: Sequence[StoredSample], size: int) -> Iterator[Sequence[StoredSample]]:
    """Split samples in their order into batches of at most `size`, and those with video or sound each by itself."""
    yield from split_apart(samples, size, is_alone)


def split_apart(items: Sequence[Item], size: int, alone: Callable[[Item], bool]) -> Iterator[Sequence[Item]]:
    """Split items in their order into batches of at most `size`, and those that go alone each by itself."""
    batch: list[Item] = []
    for item in items:
        if alone(item):
            if batch:
                yield batch
            yield [item]
            batch = []
            continue
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def is_alone(stored: StoredSample) -> bool:
    """Whether the prompts of a sample are prefilled by themselves."""
    return goes_alone(medium.kind for medium in stored.sample.media)
