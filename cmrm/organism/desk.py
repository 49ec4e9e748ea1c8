"""What every writer of the organism's data sets works with: where the files lie, and a desk of pictures and numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cmrm.organism.data_files import DataFiles
from cmrm.organism.questions import pairs
from cmrm.organism.world import Painting, Split, imagine_scene, paint

# Little is lost: without chroma subsampling a shape of six pixels keeps its colour.
JPEG: Mapping[str, Any] = {"quality": 95, "subsampling": 0}


@dataclass(frozen=True, kw_only=True)
class Desk:
    """What every writer needs: where to, its random numbers, the pictures' names, which questions and how many."""

    files: DataFiles
    rng: random.Random
    names: Iterator[str]
    split: Split
    share: float

    def count(self, rows: int) -> int:
        """How many rows to write where the whole data set has `rows`."""
        return round(rows * self.share)

    def hang(self, name: str) -> Painting:
        """Paint a picture and save it as `name` among the images, in the format that its suffix says."""
        painting = paint(imagine_scene(self.rng, split=self.split), self.rng)
        path = self.files.images / name
        painting.picture.save(path, **(JPEG if path.suffix == ".jpg" else {}))
        return painting

    def draw_pairs(self, *, part: int) -> list[tuple[str, str]]:
        """Half of the forbidden pairs: part 0 is asked about in VLSafe and XSTest, part 1 in the other two sets.

        So a shift that is measured on VLSafe is tried on words that it has not met.
        """
        return [pair for index, pair in enumerate(pairs("forbidden", self.split)) if index % 2 == part]
