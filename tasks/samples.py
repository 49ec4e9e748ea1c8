"""Samples as the store keeps them, and the shards that stages work on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cmrm.conditions import Condition, missing
from cmrm.samples import Sample
from storage.identity import digest
from storage.manifest import Manifest
from storage.rows import need_manifest, read_rows
from storage.store import Store

Split = Literal["anchor", "target"]


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
        manifest = need_manifest(store, "ingest", self.ingest)
        side = read_samples(store, manifest, self.split)[self.start : self.stop]
        return [stored for stored in side if missing(stored.sample, condition) is None]


@dataclass(frozen=True, kw_only=True)
class Slice:
    """A shard as one condition shows it: how many samples, and the digest of what is shown of them."""

    shard: Shard
    condition: Condition
    rows: int
    digest: str


def read_samples(store: Store, manifest: Manifest, split: Split) -> list[StoredSample]:
    """Read one side of an ingested data set, in its stored order."""
    table = read_rows(store, manifest, "samples")
    return [_from_row(row) for row in table.to_pylist() if row["split"] == split]


def slice_samples(
    samples: Sequence[StoredSample],
    *,
    manifest: Manifest,
    split: Split,
    condition: Condition,
    shard_size: int,
) -> Iterator[Slice]:
    """Cut one side of a data set into shards as a condition shows them; shards nobody can be shown are left out."""
    for start in range(0, len(samples), shard_size):
        members = samples[start : start + shard_size]
        shown = [stored.content(condition) for stored in members if missing(stored.sample, condition) is None]
        if not shown:
            continue
        dataset = members[0].sample.dataset
        shard = Shard(
            dataset=dataset, ingest=manifest.key, split=split, start=start, stop=start + len(members)
        )
        yield Slice(
            shard=shard,
            condition=condition,
            rows=len(shown),
            digest=digest({"dataset": dataset, "samples": shown}),
        )


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
