"""The images of samples as small WebP files, each once: of a stated size, or of one at which all fit in a page."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

from PIL import Image

from cmrm.datasets.image_folder import ImageFolder
from cmrm.errors import UserError
from cmrm.prompts.images import open_image
from cmrm.prompts.media import MediumKind
from cmrm.prompts.videos import open_video
from flows.report.thumbnail_cache import ThumbnailCache
from tasks.data.sources import digest_named

Lost = Literal["missing", "left out"]
# Of the images of data sets, by their names.
Folders = Mapping[str, Path | None]


class SampleImage(NamedTuple):
    """An image by data set and name; `digest` is that of the file that the sample was read with, where it is known.

    Of a video, whose `kind` says so, a frame in the middle is its image.
    """

    dataset: str
    name: str
    digest: str | None = None
    kind: MediumKind = "image"


class Size(NamedTuple):
    """How small: the longer side in pixels at most, and WebP's quality."""

    side: int
    quality: int


# From the best to the smallest; a side of 160 pixels shows what is in a photograph, one of 48 which one it is.
SIZES = (Size(160, 60), Size(128, 50), Size(96, 45), Size(72, 40), Size(48, 30))
# So many images tell whether all of a size would fit.
TRIED = 64
# An opened image may take a quarter of a gigabyte.
MOST_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """WebP files, and the place among them by image, or why there is none.

    An image is missing if it cannot be opened or is no longer the one that the sample was read with.
    """

    files: tuple[bytes, ...] = ()
    places: Mapping[SampleImage, int | Lost] = field(default_factory=dict)

    def find(self, image: SampleImage) -> int | Lost:
        """Find the place of an image, or why there is none."""
        return self.places.get(image, "missing")

    @property
    def lost(self) -> int:
        """The number of images that cannot be opened."""
        return sum(place == "missing" for place in self.places.values())


def make_thumbnails(
    images: Iterable[SampleImage],
    folders: Sequence[Folders],
    *,
    size: Size,
    cache: ThumbnailCache | None = None,
) -> Thumbnails:
    """Make thumbnails of images; `folders` are those of the data sets' images, tried one after the other."""
    asked = list(dict.fromkeys(images))
    with ThreadPoolExecutor(min(MOST_THREADS, os.cpu_count() or 1)) as threads:
        made = list(threads.map(lambda one: _make(one, _list_folders(one, folders), size, cache), asked))
    numbers: dict[bytes, int] = {}
    places: dict[SampleImage, int | Lost] = {
        one: "missing" if file is None else numbers.setdefault(file, len(numbers))
        for one, file in zip(asked, made, strict=True)
    }
    return Thumbnails(files=tuple(numbers), places=places)


def fit_thumbnails(
    images: Sequence[SampleImage],
    folders: Sequence[Folders],
    *,
    most: int,
    cache: ThumbnailCache | None = None,
) -> Thumbnails:
    """Make thumbnails of the largest of `SIZES` at which all together have at most `most` bytes.

    Where they do not fit at the smallest either, the last ones are left out.
    """
    distinct = list(dict.fromkeys(images))
    step = -(-len(distinct) // TRIED) or 1
    for size in SIZES[:-1]:
        tried = make_thumbnails(distinct[::step], folders, size=size, cache=cache)
        if sum(map(len, tried.files)) * step > most:
            continue
        made = make_thumbnails(distinct, folders, size=size, cache=cache)
        if sum(map(len, made.files)) <= most:
            return made
    return _leave_out(make_thumbnails(distinct, folders, size=SIZES[-1], cache=cache), most)


def _leave_out(made: Thumbnails, most: int) -> Thumbnails:
    kept = sum(total <= most for total in accumulate(map(len, made.files)))
    places: dict[SampleImage, int | Lost] = {
        name: place if isinstance(place, str) or place < kept else "left out"
        for name, place in made.places.items()
    }
    return Thumbnails(files=made.files[:kept], places=places)


def _list_folders(image: SampleImage, folders: Sequence[Folders]) -> list[Path]:
    found = dict.fromkeys(one.get(image.dataset) for one in folders)
    return [folder for folder in found if folder is not None]


def _make(
    image: SampleImage, folders: Sequence[Path], size: Size, cache: ThumbnailCache | None
) -> bytes | None:
    """Make one thumbnail of the first folder that has the image; None if it is missing."""
    name = f"{size.side}-{size.quality}"
    for folder in folders:
        try:
            if cache is not None and image.digest and (kept := cache.read(image.digest, name)) is not None:
                return kept
            if image.digest and digest_named(ImageFolder(folder), image.name) != image.digest:
                continue
            made = _encode(_open(folder, image), size)
        except (UserError, OSError):
            continue  # the page says that it is missing
        if cache is not None and image.digest:
            cache.write(image.digest, name, made)
        return made
    return None


def _open(folder: Path, image: SampleImage) -> Image.Image:
    if image.kind == "video":
        return open_video(folder, image.name, frames=1).frames[0]
    return open_image(folder, image.name)


def _encode(image: Image.Image, size: Size) -> bytes:
    image.thumbnail((size.side, size.side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=size.quality)
    return buffer.getvalue()
