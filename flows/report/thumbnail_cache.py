"""Thumbnails that were made before, in the cache folder, by their image's digest."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from storage.records.layout import cache_folder


@dataclass(frozen=True, kw_only=True)
class ThumbnailCache:
    """Files `<folder>/<first two digits>/<digest>.<size>.webp`; without the cache each is made again."""

    folder: Path = field(default_factory=lambda: cache_folder() / "thumbnails")

    def read(self, digest: str, size: str) -> bytes | None:
        """Read a thumbnail; None if there is none, or a write of it was cut short."""
        try:
            data = self._place(digest, size).read_bytes()
        except OSError:
            return None
        # The header of WebP gives the length of what follows its first eight bytes.
        whole = data[:4] == b"RIFF" and int.from_bytes(data[4:8], "little") + 8 == len(data)
        return data if whole else None

    def write(self, digest: str, size: str, data: bytes) -> None:
        """Keep a thumbnail; a disk that takes none is no reason to fail."""
        place = self._place(digest, size)
        unfinished = place.with_name(f"{place.name}.{os.getpid()}-{uuid4().hex[:8]}")
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(data)
            unfinished.replace(place)

    def _place(self, digest: str, size: str) -> Path:
        return self.folder / digest[:2] / f"{digest}.{size}.webp"
