"""Stored samples, and the shards of them that stages process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import Any, Literal

from cmrm.prompts.conditions import CONTROLS, TEXT_ONLY, Condition, missing
from cmrm.prompts.media import Medium
from cmrm.prompts.sample import Sample
from storage.records.hashing import digest
from storage.records.manifest import Manifest
from storage.shards.rows import count_values, iterate_rows_where, need_manifest, read_rows
from storage.store import Store
from tasks.core.stage_name import StageName

Split = Literal["anchor", "target"]
# Whose images are captioned: those of samples without a caption of their own, or of all.
Captioned = Literal["uncaptioned", "all"]
# All conditions show a sample's question; these two add its caption or its image.
TEXT: Condition = "query"
WITH_MORE: tuple[Condition, ...] = ("caption", "image")
# What is meaningless has the number, sizes and lengths of a sample's media, where it has more than one image.
COUNTERPART: Condition = "blank"
# The samples whose image has no caption, as a job that captions them sees them.
UNCAPTIONED = "uncaptioned"


@dataclass(frozen=True, kw_only=True)
class StoredSample:
    """A sample that passed screening, with its split and the digest of its image's bytes, or of each of its media."""

    sample: Sample
    split: Split
    image_digest: str | None
    media_digests: tuple[str | None, ...] = ()

    def is_shown_with_media(self, condition: Condition) -> bool:
        """Whether a condition shows several images, video or sound, or what is meaningless in their place."""
        return bool(self.sample.media) and condition not in TEXT_ONLY and condition not in CONTROLS

    def content(self, condition: Condition) -> dict[str, Any]:
        """The key content of what a condition shows the model, with the id in its rows."""
        shown: dict[str, Any] = {"id": self.sample.id, "question": self.sample.question}
        if condition == "caption":
            shown["caption"] = self.sample.caption
        if condition == "image" and not self.sample.media:
            shown["image"] = self.image_digest
        if condition not in TEXT_ONLY and self.sample.media:
            shown["media"] = [
                {"kind": medium.kind, "digest": found, **({"frames": medium.frames} if medium.frames else {})}
                for medium, found in zip(self.sample.media, self.media_digests, strict=True)
            ]
        return shown


@dataclass(frozen=True, kw_only=True)
class Captions:
    """Generated captions of a shard: the key of their job, and the samples that they are given to."""

    key: str
    given_to: Captioned

    def give(self, samples: Sequence[StoredSample], store: Store) -> Iterator[StoredSample]:
        """Give samples with an image their generated captions; `all` takes away those of their own."""
        found = read_captions(store, self.key)
        for stored in samples:
            own = stored.sample.caption
            if not stored.sample.shown or (own and self.given_to == "uncaptioned"):
                yield stored
            else:
                caption = found.get(stored.sample.id)
                yield replace(stored, sample=replace(stored.sample, caption=caption))


def read_captions(store: Store, key: str) -> Mapping[str, str]:
    """Read the captions of a committed caption job, by sample."""
    manifest = need_manifest(store, StageName.CAPTION, key)
    rows = read_rows(store, manifest, "captions", ("sample_id", "caption")).to_pylist()
    return {row["sample_id"]: row["caption"] for row in rows}


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A range of one split of an ingested data set: samples `start` to `stop` of the manifest `ingest`.

    `captions` are those that a run generated for it, if it did and they are to be shown.
    """

    dataset: str
    ingest: str
    split: Split
    start: int
    stop: int
    captions: Captions | None = None

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
    shown = condition if condition in WITH_MORE or condition in TEXT_ONLY else COUNTERPART
    return tuple(
        Slice(shard=shard, condition=condition, rows=view.rows, digest=view.digest)
        for shard, views in _cut(store, ingest, split, shard_size)
        if (view := views.get(shown)) is not None
    )


def slice_to_caption(
    store: str, ingest: str, split: Split, captioned: Captioned, shard_size: int
) -> tuple[Slice, ...]:
    """Cut one split into shards as `slice_samples` does, under `image`, of the samples that are to be captioned."""
    return tuple(
        Slice(shard=shard, condition="image", rows=view.rows, digest=view.digest)
        for shard, views in _cut(store, ingest, split, shard_size)
        if (view := views.get("image" if captioned == "all" else UNCAPTIONED)) is not None
    )


def slice_captioned(
    store: str, ingest: str, split: Split, shard_size: int, captions: Mapping[Shard, Captions]
) -> tuple[Slice, ...]:
    """Cut one split into shards as `slice_samples` does, under `caption`, with generated captions by shard."""
    slices = []
    for shard, views in _cut(store, ingest, split, shard_size):
        given = replace(shard, captions=captions.get(shard))
        view = views.get("caption") if given.captions is None else _view_captioned(given, store)
        if view is not None:
            slices.append(Slice(shard=given, condition="caption", rows=view.rows, digest=view.digest))
    return tuple(slices)


def needs_caption(stored: StoredSample, captioned: Captioned) -> bool:
    """Whether a sample's image is among those that are captioned."""
    has_image = missing(stored.sample, "image") is None
    return has_image and (captioned == "all" or missing(stored.sample, "caption") is not None)


@dataclass(frozen=True, kw_only=True)
class _View:
    """A shard as conditions that show the same fields of a sample see it."""

    rows: int
    digest: str


# A run needs it again for every model, condition and intervention; a shard takes a few hundred bytes.
@lru_cache(maxsize=64)
def _cut(
    store: str, ingest: str, split: Split, shard_size: int
) -> tuple[tuple[Shard, Mapping[str, _View]], ...]:
    opened = Store.open(store)
    side = iterate_samples(opened, need_manifest(opened, StageName.INGEST, ingest), split)
    shards = []
    start = 0
    while members := list(islice(side, shard_size)):
        stop = start + len(members)
        shard = Shard(dataset=members[0].sample.dataset, ingest=ingest, split=split, start=start, stop=stop)
        # Sorted, so that the order of a data file changes no digest.
        members.sort(key=lambda stored: stored.sample.id)
        views: dict[str, _View | None] = {
            condition: _view(members, condition) for condition in (TEXT, *WITH_MORE)
        }
        media = any(stored.sample.media for stored in members)
        views[COUNTERPART] = _view(members, COUNTERPART) if media else views[TEXT]
        views[UNCAPTIONED] = _view_uncaptioned(members, views["image"])
        shards.append((shard, {condition: view for condition, view in views.items() if view is not None}))
        start = stop
    return tuple(shards)


def _view_uncaptioned(members: Sequence[StoredSample], images: _View | None) -> _View | None:
    """View the samples whose image has no caption; mostly all or none of those with an image, and then for nothing."""
    uncaptioned = [stored for stored in members if needs_caption(stored, "uncaptioned")]
    if images is not None and len(uncaptioned) == images.rows:
        return images
    return _view(uncaptioned, "image")


def _view(members: Sequence[StoredSample], condition: Condition) -> _View | None:
    shown = [stored.content(condition) for stored in members if missing(stored.sample, condition) is None]
    if not shown:
        return None
    named = {"dataset": members[0].sample.dataset, "samples": shown}
    return _View(rows=len(shown), digest=digest(named))


# Every arm asks for it again, and it takes a few hundred bytes.
@lru_cache(maxsize=4096)
def _view_captioned(shard: Shard, store: str) -> _View | None:
    return _view(sorted(shard.read_all(Store.open(store)), key=lambda stored: stored.sample.id), "caption")


# Many arms and judges read the same shard in turn; a sample takes about a kilobyte.
@lru_cache(maxsize=8)
def _read_shard(shard: Shard, store: str) -> Sequence[StoredSample]:
    opened = Store.open(store)
    if shard.captions is not None:
        return tuple(shard.captions.give(replace(shard, captions=None).read_all(opened), opened))
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
        media=tuple(
            Medium(kind=one["kind"], name=one["name"], frames=one["frames"]) for one in row["media"] or ()
        ),
    )
    return StoredSample(
        sample=sample,
        split=row["split"],
        image_digest=row["image_digest"],
        media_digests=tuple(one["digest"] for one in row["media"] or ()),
    )
