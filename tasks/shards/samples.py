"""Stored samples, and the shards of them that stages process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from cmrm.prompts.conditions import Condition, missing
from cmrm.prompts.sample import Sample
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.rows import count_values, iterate_rows_where, need_manifest
from storage.store import Store
from tasks.core.stage_name import StageName

Split = Literal["anchor", "target"]
# All conditions show a sample's question; these two add its caption or its image.
TEXT: Condition = "query"
WITH_MORE: tuple[Condition, ...] = ("caption", "image")


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A sample that passed screening, with its split and the digest of its image's bytes."""

    sample: Sample
    split: Split
    image_digest: str | None

    def content(self, condition: Condition) -> dict[str, Any]:
        """The key content of what a condition shows the model, with the id in its rows."""
        shown: dict[str, Any] = {"id": self.sample.id, "question": self.sample.question}
        if condition == "caption":
            shown["caption"] = self.sample.caption
        if condition == "image":
            shown["image"] = self.image_digest
        return shown


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A range of one split of an ingested data set: samples `start` to `stop` of the manifest `ingest`."""

    dataset: str
    ingest: str
    split: Split
    start: int
    stop: int

    def read(self, store: Store, condition: Condition) -> list[StoredSample]:
        """Read the shard's samples that the condition can show, in order."""
        return [stored for stored in self.read_all(store) if missing(stored.sample, condition) is None]

    def read_all(self, store: Store) -> Sequence[StoredSample]:
        """Read all samples of the shard, in order."""
        return _read_shard(self, store.url)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A shard under one condition: how many samples it shows, and the digest of what it shows."""

    shard: Shard
    condition: Condition
    rows: int
    digest: str

    @property
    def label(self) -> str:
        """The label in messages: data set, condition, and range of samples."""
        return f"{self.shard.dataset} {self.condition} {self.shard.start}–{self.shard.stop}"


def count_samples(store: Store, manifest: Manifest) -> Mapping[Split, int]:
    """Count the samples of an ingested data set in each split."""
    return count_values(store, manifest, "samples", "split")


def iterate_samples(
    store: Store, manifest: Manifest, split: Split, *, start: int = 0
) -> Iterator[StoredSample]:
    """Iterate over one split of an ingested data set in stored order, from sample `start`."""
    return map(_from_row, iterate_rows_where(store, manifest, "samples", "split", split, start=start))


def slice_samples(
    store: str, ingest: str, split: Split, condition: Condition, shard_size: int
) -> tuple[Slice, ...]:
    """Cut one split of an ingested data set into shards under a condition.

    Shards without a sample that the condition can show are left out. `ingest` is the key of the data set's manifest.
    """
    shown = condition if condition in WITH_MORE else TEXT
    return tuple(
        Slice(shard=shard, condition=condition, rows=view.rows, digest=view.digest)
        for shard, views in _cut(store, ingest, split, shard_size)
        if (view := views.get(shown)) is not None
    )


@dataclass(frozen=True, kw_only=True)
class _View:
    """A shard as conditions that show the same fields of a sample see it."""

    rows: int
    digest: str


# A run needs it again for every model, condition and intervention; a shard takes a few hundred bytes.
@lru_cache(maxsize=64)
def _cut(
    store: str, ingest: str, split: Split, shard_size: int
) -> tuple[tuple[Shard, Mapping[Condition, _View]], ...]:
    opened = Store.open(store)
    side = iterate_samples(opened, need_manifest(opened, StageName.INGEST, ingest), split)
    shards = []
    start = 0
    while members := list(islice(side, shard_size)):
        stop = start + len(members)
        shard = Shard(dataset=members[0].sample.dataset, ingest=ingest, split=split, start=start, stop=stop)
        # Sorted, so that the order of a data file changes no digest.
        members.sort(key=lambda stored: stored.sample.id)
        views = {condition: _view(members, condition) for condition in (TEXT, *WITH_MORE)}
        shards.append((shard, {condition: view for condition, view in views.items() if view is not None}))
        start = stop
    return tuple(shards)


def _view(members: Sequence[StoredSample], condition: Condition) -> _View | None:
    shown = [stored.content(condition) for stored in members if missing(stored.sample, condition) is None]
    if not shown:
        return None
    named = {"dataset": members[0].sample.dataset, "samples": shown}
    return _View(rows=len(shown), digest=digest(named))


# Many arms and judges read the same shard in turn; a sample takes about a kilobyte.
@lru_cache(maxsize=8)
def _read_shard(shard: Shard, store: str) -> Sequence[StoredSample]:
    opened = Store.open(store)
    manifest = need_manifest(opened, StageName.INGEST, shard.ingest)
    side = iterate_samples(opened, manifest, shard.split, start=shard.start)
    return tuple(islice(side, shard.stop - shard.start))


def _from_row(row: dict[str, Any]) -> StoredSample:
    sample = Sample(
        id=row["sample_id"],
        dataset=row["dataset"],
        question=row["question"],
        harmful=row["harmful"],
        image=row["image"],
        caption=row["caption"],
        category=row["category"],
        reference=row["reference"],
        context=row["context"],
        group=row["split_by"],
    )
    return StoredSample(sample=sample, split=row["split"], image_digest=row["image_digest"])
