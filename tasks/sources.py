"""Where a data set comes from, and its rows as they are read: paired with images where they came without."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmrm.datasets import read_dataset
from cmrm.datasets.pairing import Match
from cmrm.datasets.screening import find_image
from cmrm.datasets.splits import SplitRow, draw
from cmrm.errors import UserError
from cmrm.samples import Rejected, Sample
from storage.identity import canonical_json, digest_file
from storage.parquet import iterate_rows

Matches = Mapping[str, Match]
# Not the anchors' seed: which samples are looked at has nothing to do with which side they are on.
LIMIT_SEED = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as the spec names it: format, file, image folder, the format's options, and the anchors' share.

    `limit` keeps so many samples, drawn by their text: the same ones however the file is ordered.
    """

    dataset: str
    format: str
    path: Path
    images: Path | None
    options: Mapping[str, Any] = field(hash=False)
    fraction: float
    limit: int | None = None

    def read(self, matches: Matches) -> Iterator[Sample | Rejected]:
        """Read the rows; a sample without an image gets the one that `matches` has for its id.

        Raises `UserError` naming the data set when a file or the image folder is not there.
        """
        try:
            if self.images is not None and not self.images.is_dir() and self.format != "huggingface":
                raise UserError(f"image folder {self.images} does not exist; correct the path of `images`.")
            rows = read_dataset(
                self.format,
                self.path,
                dataset=self.dataset,
                images=self.images,
                open_rows=iterate_rows,
                **self.options,
            )
            for row in rows if self.limit is None else _draw_some(rows, self.limit):
                yield _give_image(row, matches)
        except UserError as error:
            raise UserError(f"datasets.{self.dataset}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What one reading of a source found: how many rows, the digest of them and their images, and what splits them."""

    rows: int
    digest: str
    texts: tuple[SplitRow, ...]


def survey(source: Source, matches: Matches) -> Survey:
    """Read a source through once without keeping its rows."""
    total, rows = hashlib.sha256(), 0
    digests: dict[str, str | None] = {}
    texts: list[SplitRow] = []
    for row in source.read(matches):
        total.update(canonical_json(_describe(row, source.images, digests)))
        rows += 1
        if isinstance(row, Sample):
            texts.append(SplitRow.of(row))
    return Survey(rows=rows, digest=total.hexdigest(), texts=tuple(texts))


def digest_image(sample: Sample, images: Path | None, known: dict[str, str | None]) -> str | None:
    """The digest of a sample's image file, looked up once a name; None for no image or none that can be read."""
    if sample.image is None or images is None:
        return None
    if sample.image not in known:
        found = find_image(images, sample.image)
        try:
            known[sample.image] = None if found is None else digest_file(found)
        except OSError:
            known[sample.image] = None  # the screening will say why it cannot be read
    return known[sample.image]


def _draw_some(rows: Iterable[Sample | Rejected], limit: int) -> Iterator[Sample | Rejected]:
    """Pass on the rejected rows, then the `limit` samples with the smallest draws, in the order of the file."""
    kept: list[tuple[float, int, Sample]] = []
    for place, row in enumerate(rows):
        if isinstance(row, Rejected):
            yield row
            continue
        # A heap of the largest draw first, so that memory is `limit` samples.
        offer = -draw(f"{row.id} {row.question}", seed=LIMIT_SEED), place, row
        if len(kept) < limit:
            heapq.heappush(kept, offer)
        else:
            heapq.heappushpop(kept, offer)
    for _, _, sample in sorted(kept, key=lambda one: one[1]):
        yield sample


def _give_image(row: Sample | Rejected, matches: Matches) -> Sample | Rejected:
    if isinstance(row, Rejected) or row.image is not None or (match := matches.get(row.id)) is None:
        return row
    return dataclasses.replace(row, image=match.image, caption=row.caption or match.caption)


def _describe(row: Sample | Rejected, images: Path | None, digests: dict[str, str | None]) -> dict[str, Any]:
    if isinstance(row, Rejected):
        # The line of a bad row is part of what is told of it.
        return dict(vars(row))
    described = {**vars(row), "digest": digest_image(row, images, digests)}
    # A blank line above a sample moves it and changes nothing.
    del described["line"]
    return described
