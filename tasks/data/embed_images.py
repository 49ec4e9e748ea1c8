"""Embed images with CLIP: one vector for each image that questions can be paired with, computed once."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from PIL.Image import Image

from cmrm.datasets.clip import embed_images, load_clip
from cmrm.errors import UserError
from cmrm.models.image_backend import pin_image_backend
from cmrm.models.pinning import check_unchanged, place
from cmrm.models.revision import ModelIdentity
from cmrm.prompts.images import open_image
from cmrm.prompts.media_files import locate_file
from storage.records.hashing import digest, digest_file
from storage.records.manifest import Manifest
from storage.shards.rows import need_manifest, read_rows
from storage.shards.writer import ShardWriter
from storage.store import Store
from storage.tables.schemas import KINDS
from tasks.core.commit import commit_shard
from tasks.core.models import choose_device, load_once
from tasks.core.oom import run_in_smaller_batches
from tasks.core.progress import report_rows
from tasks.core.stage import Job, make_stage
from tasks.core.stage_name import StageName

if TYPE_CHECKING:
    from cmrm.datasets.clip import Clip

log = logging.getLogger("cmrm.tasks")

KIND = "image_vectors"
# A minute of work on a CPU; an added image changes the shards after it and no earlier ones.
SHARD_SIZE = 2048
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class ClipUse:
    """A resolved CLIP model and its device, which changes vectors only within float tolerance."""

    identity: ModelIdentity
    device: str
    # With its version: always Pillow's, whatever else is installed.
    image_backend: str

    @property
    def name(self) -> str:
        """The model's name in messages and tables."""
        return f"{self.identity.own_name}@{self.identity.short_revision}"

    def content(self) -> dict[str, Any]:
        """The key content that determines the vectors and their rows."""
        return {"clip": self.identity.fingerprint, "name": self.name, "image_backend": self.image_backend}


@dataclass(frozen=True, kw_only=True)
class EmbedImagesJob(Job):
    """Some images of a folder, by name; `digest` is of their names and bytes."""

    images: Path
    names: tuple[str, ...]
    digest: str
    clip: ClipUse

    @property
    def stage(self) -> StageName:
        return StageName.EMBED_IMAGES

    def content(self) -> dict[str, Any]:
        return {**self.clip.content(), "images": self.digest}


def plan_embedding(
    images: Path, names: Sequence[str], *, store: str, label: str, clip: ClipUse
) -> list[EmbedImagesJob]:
    """Plan CLIP jobs: cut images into shards in the given order, after reading each for its digest."""
    known = [(name, sha256) for name in names if (sha256 := _digest_image(images, name)) is not None]
    shards = [known[start : start + SHARD_SIZE] for start in range(0, len(known), SHARD_SIZE)]
    return [
        EmbedImagesJob(
            store=store,
            label=f"{label} {number} of {len(shards)}",
            rows=len(shard),
            images=images,
            names=tuple(name for name, _ in shard),
            digest=digest(shard),
            clip=clip,
        )
        for number, shard in enumerate(shards, start=1)
    ]


def read_vectors(store: Store, key: str) -> tuple[list[str], np.ndarray]:
    """Read a shard's images, sorted by name, and their CLIP vectors, float32 [images, width]."""
    manifest = need_manifest(store, StageName.EMBED_IMAGES, key)
    table = read_rows(store, manifest, KIND).sort_by("image").combine_chunks()
    numbers = np.concatenate([np.empty(0, np.float32), *map(_flatten, table["vector"].chunks)])
    return table["image"].to_pylist(), numbers.reshape(table.num_rows, -1 if table.num_rows else 0)


def load_clip_once(use: ClipUse) -> Clip:
    """Load CLIP, or return this process's cached copy; raises `ModelChangedError` if its files changed."""

    def load() -> Clip:
        log.info("loading CLIP %s", use.name)
        identity = place(use.identity)
        pin_image_backend(
            identity.folder, asked=use.image_backend, where=identity.id, field="clip.image_backend"
        )
        loaded = load_clip(identity, device=choose_device(use.device))
        check_unchanged(identity)
        return loaded

    return load_once(use, load)


def _embed(job: EmbedImagesJob, store: Store) -> Manifest:
    unreadable: dict[str, str] = {}
    with ShardWriter(store, job.stage, job.key, KIND, unit="image") as writer:
        resumed = writer.resume("image", "image_digest")
        seen: dict[str, str] = dict(
            zip(resumed["image"].to_pylist(), resumed["image_digest"].to_pylist(), strict=True)
        )
        report_rows(len(seen))

        def list_waiting() -> list[str]:
            return [name for name in job.names if name not in seen and name not in unreadable]

        def embed_all(size: int) -> None:
            waiting = list_waiting()
            for start in range(0, len(waiting), size):
                batch = waiting[start : start + size]
                rows, bad = _embed_batch(job, batch)
                writer.append(rows)
                seen.update(zip(rows["image"].to_pylist(), rows["image_digest"].to_pylist(), strict=True))
                unreadable.update(bad)
                report_rows(len(batch))

        run_in_smaller_batches(job, BATCH_SIZE, embed_all, list_waiting)
        if not list_waiting():  # the commit reports lost rows
            _refuse_changes(job, unreadable | seen)
        return commit_shard(
            job,
            store,
            writer,
            asked=(name for name in job.names if name not in unreadable),
            kind=KIND,
            quarantined=[],
            provenance={"images": str(job.images), "unreadable": sorted(unreadable)},
        )


def _embed_batch(job: EmbedImagesJob, names: Sequence[str]) -> tuple[pa.Table, dict[str, str]]:
    """Embed some images; return their rows, and the digests of unreadable ones by name."""
    opened: list[Image] = []
    kept: list[tuple[str, str]] = []
    unreadable: dict[str, str] = {}
    for name, sha256, image in _open(job, names):
        if image is None:
            unreadable[name] = sha256
        else:
            opened.append(image)
            kept.append((name, sha256))
    schema = KINDS[KIND].schema
    vectors = embed_images(load_clip_once(job.clip), opened)
    columns = [
        pa.repeat(job.clip.name, len(kept)),
        pa.array([name for name, _ in kept], pa.string()),
        pa.array([sha256 for _, sha256 in kept], pa.string()),
        pa.array(list(vectors), schema.field("vector").type),
    ]
    return pa.Table.from_arrays(columns, schema=schema), unreadable


def _open(job: EmbedImagesJob, names: Sequence[str]) -> Iterator[tuple[str, str, Image | None]]:
    for name in names:
        try:
            image = open_image(job.images, name)
        except UserError as error:
            log.warning("no question is paired with it: %s", error)
            image = None
        yield name, _digest_image(job.images, name) or "", image


def _refuse_changes(job: EmbedImagesJob, seen: dict[str, str]) -> None:
    """Raise `UserError` unless the images, as digests by name, are still those of the job's key."""
    if digest([(name, seen.get(name)) for name in job.names]) != job.digest:
        raise UserError(
            f"images in {job.images} changed while they were being embedded; run again once they no longer change."
        )


def _digest_image(images: Path, name: str) -> str | None:
    try:
        return digest_file(locate_file(images, name))
    except (UserError, OSError) as error:
        log.warning("no question is paired with %s: %s", name, error)
        return None


def _flatten(chunk: pa.ListArray) -> np.ndarray:
    numbers: np.ndarray = chunk.flatten().to_numpy(zero_copy_only=False)
    return numbers


extract_image_vectors = make_stage(StageName.EMBED_IMAGES, _embed, place="devices")
