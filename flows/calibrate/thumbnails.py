"""The images of a sheet's samples as small data URIs, each once."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cmrm.errors import UserError
from cmrm.prompts.images import open_image

# Longer side in pixels: enough to read the typography that attacks are written in.
SIDE = 384
QUALITY = 75


@dataclass(frozen=True, kw_only=True)
class Thumbnails:
    """Data URIs, and the place among them by data set and image name; None for an image that cannot be opened."""

    uris: tuple[str, ...]
    places: Mapping[tuple[str, str], int | None]

    @property
    def lost(self) -> int:
        """The number of images that cannot be opened."""
        return sum(place is None for place in self.places.values())


def make_thumbnails(images: Iterable[tuple[str, str]], folders: Mapping[str, Path | None]) -> Thumbnails:
    """Make thumbnails of images, given by data set and name; `folders` are those of the data sets' images."""
    uris: list[str] = []
    places: dict[tuple[str, str], int | None] = {}
    for dataset, name in dict.fromkeys(images):
        folder = folders.get(dataset)
        places[dataset, name] = None
        if folder is None:
            continue
        try:
            uri = _encode(open_image(folder, name))
        except UserError:
            continue  # the page says that it is missing
        places[dataset, name] = len(uris)
        uris.append(uri)
    return Thumbnails(uris=tuple(uris), places=places)


def _encode(image: Image.Image) -> str:
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=QUALITY)
    return f"data:image/webp;base64,{b64encode(buffer.getvalue()).decode()}"
