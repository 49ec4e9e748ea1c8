"""Images in Inspect logs: data URIs of the files that were shown, and of the meaningless images."""

from __future__ import annotations

import io
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.data_uri import to_data_uri, to_png_uri
from cmrm.prompts.images import FORMATS, open_image
from cmrm.prompts.media_files import locate_file
from tasks.data.shown_images import read_shown

if TYPE_CHECKING:
    from flows.inspect.log_source import LogSource
    from storage.store import Store
    from tasks.shards.samples import StoredSample

# What every browser shows; other formats become PNG.
MEDIA_TYPES = MappingProxyType(
    {"JPEG": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp"}
)


class LogImages:
    """Makes data URIs; `lost` are the images that are gone by now, or others than those that were shown."""

    def __init__(self) -> None:
        self.lost: set[tuple[str, str]] = set()
        # All samples of a condition share one object.
        self._made: tuple[Image.Image, str] | None = None

    def encode_own(self, stored: StoredSample, folder: Path | None) -> str | None:
        """Encode the sample's own image; None if it is lost."""
        sample = stored.sample
        assert sample.image is not None  # shown under `image` alone
        return self.encode_file(sample.dataset, sample.image, stored.image_digest, folder)

    def encode_file(self, dataset: str, name: str, digest: str | None, folder: Path | None) -> str | None:
        """Encode an image's file; None if it is lost."""
        content = read_shown(folder, name, digest)
        if content is None:
            self.lost.add((dataset, name))
            return None
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            kind = MEDIA_TYPES.get(image.format or "")
        if kind is not None:
            return to_data_uri(content, kind=kind)
        assert folder is not None  # read from it
        return to_png_uri(open_image(folder, name))

    def encode_made(self, image: Image.Image) -> str:
        """Encode an image that was generated."""
        if self._made is None or self._made[0] is not image:
            self._made = image, to_png_uri(image)
        return self._made[1]


def measure_images(logs: Iterable[LogSource], store: Store) -> int:
    """Estimate the bytes that the images of logs take: those of the files, and of generated ones as PNG."""
    sizes: dict[tuple[str, str], int] = {}
    total = 0
    for source in logs:
        first = source.shards[0]
        condition = first.slice.condition
        if (recipe := first.showing.meaningless.get(condition)) is not None:
            buffer = io.BytesIO()
            recipe.render().save(buffer, "PNG")
            total += buffer.tell() * sum(one.slice.rows for one in source.shards)
        if condition != "image" or (folder := first.showing.images) is None:
            continue
        for stored in source.list_samples(store):
            for medium in stored.sample.shown:
                name = stored.sample.dataset, medium.name
                if name not in sizes:
                    sizes[name] = 0
                    with suppress(UserError, OSError):
                        sizes[name] = locate_file(folder, name[1]).stat().st_size
                total += sizes[name]
    return total
