"""Samples as the store keeps them, and the shards that stages work on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from cmrm.conditions import Condition, missing
from cmrm.samples import Sample
from storage.identity import digest
from storage.manifest import Manifest
from storage.rows import count_values, iterate_rows_where, need_manifest
from storage.store import Store

Split = Literal["anchor", "target"]
# All conditions show a sample's question, and these two what their name says as well.
TEXT: Condition = "query"
WITH_MORE: tuple[Condition, ...] = ("caption", "image")


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A sample that passed the screening, with its side of the split and the digest of its image's bytes."""

    sample: Sample
    split: Split
    image_digest: str | None

    def content(self, condition: Condition) -> dict[str, Any]:
        """What of the sample a condition shows to the model, and the id its rows carry."""
        shown: dict[str, Any] = {"id": self.sample.id, "question": self.sample.question}
        if condition == "caption":
            shown["caption"] = self.sample.caption
        if condition == "image":
            shown["image"] = self.image_digest
        return shown


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A range of one side of a data set, named by the manifest of its ingest: rows `start` to `stop`."""

    dataset: str
    ingest: str
    split: Split
    start: int
    stop: int

    def read(self, store: Store, condition: Condition) -> list[StoredSample]:
        """The shard's samples that can be shown under the condition, in order."""
        return [stored for stored in self.read_all(store) if missing(stored.sample, condition) is None]

    def read_all(self, store: Store) -> Sequence[StoredSample]:
        """All samples of the shard, in order."""
        return _read_shard(self, store.url)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A shard as one condition shows it: how many samples, and the digest of what is shown of them."""

    shard: Shard
    condition: Condition
    rows: int
    digest: str

    @property
    def label(self) -> str:
        """The slice for people: its data set, its condition, and which of the samples."""
        return f"{self.shard.dataset} {self.condition} {self.shard.start}–{self.shard.stop}"


def count_samples(store: Store, manifest: Manifest) -> Mapping[Split, int]:
    """How many samples of an ingested data set are on each side."""
    return count_values(store, manifest, "samples", "split")


def iterate_samples(
    store: Store, manifest: Manifest, split: Split, *, start: int = 0
) -> Iterator[StoredSample]:
    """Go through one side of an ingested data set in its stored order, from the `start`th sample."""
    return map(_from_row, iterate_rows_where(store, manifest, "samples", "split", split, start=start))


def slice_samples(
    store: str, ingest: str, split: Split, condition: Condition, shard_size: int
) -> tuple[Slice, ...]:
    """Cut one side of an ingested data set into shards as a condition shows them.

    Shards of which nothing can be shown are left out. `ingest` is the key of the data set's manifest.
    """
    shown = condition if condition in WITH_MORE else TEXT
    return tuple(
        Slice(shard=shard, condition=condition, rows=view.rows, digest=view.digest)
        for shard, views in _cut(store, ingest, split, shard_size)
        if (view := views.get(shown)) is not None
    )


@dataclass(frozen=True, kw_only=True)
class _View:
    """What conditions that show the same of a sample show of a shard."""

    rows: int
    digest: str


# What a run asks for again for every model, condition and intervention; a shard is some hundred bytes.
@lru_cache(maxsize=64)
def _cut(
    store: str, ingest: str, split: Split, shard_size: int
) -> tuple[tuple[Shard, Mapping[Condition, _View]], ...]:
    opened = Store.open(store)
    side = iterate_samples(opened, need_manifest(opened, "ingest", ingest), split)
    shards = []
    start = 0
    while members := list(islice(side, shard_size)):
        stop = start + len(members)
        shard = Shard(dataset=members[0].sample.dataset, ingest=ingest, split=split, start=start, stop=stop)
        # In one order: how a file was sorted is nothing that a model sees.
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


# Many arms and judges ask for one shard after the other; a sample is about a kilobyte.
@lru_cache(maxsize=8)
def _read_shard(shard: Shard, store: str) -> Sequence[StoredSample]:
    opened = Store.open(store)
    manifest = need_manifest(opened, "ingest", shard.ingest)
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
