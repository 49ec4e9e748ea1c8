"""Shared context of the data set writers: paths, random generator, picture names, split and size."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cmrm.organism.data_files import DataFiles
from cmrm.organism.questions import pairs
from cmrm.organism.world import Painting, Split, imagine_scene, paint

# Nearly lossless: without chroma subsampling a shape of six pixels keeps its colour.
JPEG: Mapping[str, Any] = {"quality": 95, "subsampling": 0}


@dataclass(frozen=True, kw_only=True)
class WriterContext:
    """What each writer needs; `share` scales the number of rows."""

    files: DataFiles
    rng: random.Random
    names: Iterator[str]
    split: Split
    share: float

    def count(self, rows: int) -> int:
        """Scale the number of rows of the full data set."""
        return round(rows * self.share)

    def paint_picture(self, name: str) -> Painting:
        """Paint a picture and save it as `name` in the image folder, in the format of its suffix."""
        painting = paint(imagine_scene(self.rng, split=self.split), self.rng)
        path = self.files.images / name
        painting.picture.save(path, **(JPEG if path.suffix == ".jpg" else {}))
        return painting

    def draw_pairs(self, *, part: int) -> list[tuple[str, str]]:
        """Return half of the forbidden pairs: part 0 for VLSafe and XSTest, part 1 for the other two sets.

        So transfer of a Δ measured on VLSafe is tested on other words.
        """
        return [pair for index, pair in enumerate(pairs("forbidden", self.split)) if index % 2 == part]
