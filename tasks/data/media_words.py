"""Several images, videos and sounds of a stored sample in words, and the one that stands for them in a picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from storage.records.manifest import Manifest
from storage.shards.rows import read_rows
from storage.store import Store

# Rows of the column `media` of `samples`.
MediaRows = Sequence[Mapping[str, Any]]


def say_media(media: MediaRows) -> str:
    """Say how many images there are, and how long each video and sound is."""
    images = sum(one["kind"] == "image" for one in media)
    words = [f"{images} image{'' if images == 1 else 's'}"] if images else []
    for one in media:
        if one["kind"] == "video":
            words.append(f"video of {one['seconds']:.1f} s, {one['frames']} frames shown")
        elif one["kind"] == "audio":
            words.append(f"sound of {one['seconds']:.1f} s")
    return "; ".join(words)


def note_media(question: str, media: MediaRows | None) -> str:
    """Put what is shown with a question above it, in brackets; the question alone where it is one image or none."""
    return f"[{say_media(media)}]\n{question}" if media else question


def find_picture(media: MediaRows | None) -> Mapping[str, Any] | None:
    """Find the image, or else the video, that stands for all of a sample's media in a picture; None for sound alone."""
    kinds = ("image", "video")
    return next((one for kind in kinds for one in media or () if one["kind"] == kind), None)


def count_with_media(store: Store, ingested: Iterable[Manifest]) -> tuple[int, int]:
    """Count the samples that have several images, video or sound, and all; raises `StoreError` if a file is missing."""
    columns = [read_rows(store, manifest, "samples", ["media"])["media"] for manifest in ingested]
    total = sum(map(len, columns))
    return total - sum(column.null_count for column in columns), total
