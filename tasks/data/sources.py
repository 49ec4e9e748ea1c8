"""Read the rows of a data set from its source, with images from its pairing where rows have none."""

from __future__ import annotations

import dataclasses
import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmrm.datasets import read_dataset
from cmrm.datasets.fields import RowError
from cmrm.datasets.format import FetchImages
from cmrm.datasets.image_folder import ImageFolder
from cmrm.datasets.image_markers import MARKER, take_out_marker
from cmrm.datasets.media_columns import MEDIA_FIELDS
from cmrm.datasets.pairing import Match
from cmrm.datasets.rows import reject
from cmrm.datasets.splits import SplitRow, draw
from cmrm.errors import UserError
from cmrm.prompts.media_files import locate_medium
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.regular_file import refuse_no_image_folder
from storage.records.hashing import canonical_json, digest, digest_file
from storage.store import Store
from storage.tables.parquet import iterate_rows
from tasks.data.remote_images import Asking, RemoteImages

Matches = Mapping[str, Match]
# Formats of people's own rows, whose columns a spec may name.
OWN_ROWS = frozenset(("jsonl", "json", "csv", "parquet"))
# Not the anchors' seed: the samples kept by a limit must be independent of the split.
LIMIT_SEED = 1


@dataclass(frozen=True, kw_only=True)
class Source:
    """A data set as configured in the spec: format, file, image folder, the format's options, and the anchors' share.

    `limit` keeps that many samples, drawn by their text, twins together: the same ones however the file is ordered.
    Images that rows contain, or name by URL, are stored in `kept` if there is no image folder. `url` is where the file
    was fetched from, and `images_url` a remote image folder. `asking` says whether servers are requested for remote
    images that are not stored, each once per `run`.
    """

    dataset: str
    format: str
    path: Path
    images: Path | None
    options: Mapping[str, Any] = field(hash=False)
    fraction: float
    limit: int | None = None
    kept: Path | None = None
    url: str | None = None
    images_url: str | None = None
    asking: Asking = "servers"
    run: str = ""

    def read(self, matches: Matches | None) -> Iterator[Sample | Rejected]:
        """Read the rows; a sample without an image gets the one that `matches` has for its id.

        `matches` is None before pairing, and empty where nothing is paired: then some row must name an image if the
        spec gives their folder.

        Raises `UserError` naming the data set if a file or the image folder is missing.
        """
        try:
            if self.images is not None and self.format != "huggingface":
                refuse_no_image_folder(self.images)
            rows = read_dataset(
                self.format,
                self.path,
                dataset=self.dataset,
                images=self.images or self.kept,
                open_rows=iterate_rows,
                fetch_images=self._fetch_images(),
                **self.options,
            )
            if matches is not None and not matches and self.images is not None and self.format in OWN_ROWS:
                rows = _demand_an_image(rows, _name_image_column(self.options))
            for row in rows if self.limit is None else _draw_some(rows, self.limit):
                yield _give_image(row, matches or {})
        except UserError as error:
            raise UserError(f"datasets.{self.dataset}: {error}") from None

    def settle(self, store: Store) -> Source:
        """Use the folder of stored images as the image folder, once reading has made it, and fetch no more."""
        folder = find_image_folder(self.images, store=store.url, dataset=self.dataset)
        return dataclasses.replace(self, images=folder, asking="nobody")

    def _fetch_images(self) -> FetchImages | None:
        folder = self.images or self.kept
        if folder is None:
            return None
        images = RemoteImages(
            folder=folder, base=self.images_url, origin=self.url, run=self.run, asking=self.asking
        )
        return images.fetch


def find_image_folder(images: Path | None, *, store: str, dataset: str) -> Path | None:
    """Find a data set's image folder: its own, else the store's for images that rows contain, None without any."""
    if images is not None:
        return images
    kept = Store.open(store).image_cache(dataset)
    return kept if kept.is_dir() else None


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The result of one pass over a source: row count, digest of rows and images, and the texts that decide splits."""

    rows: int
    digest: str
    texts: tuple[SplitRow, ...]


def survey(source: Source, matches: Matches) -> Survey:
    """Read a source once without keeping its rows."""
    total, rows = hashlib.sha256(), 0
    folder = source.images or source.kept
    images = None if folder is None else ImageFolder(folder)
    digests: dict[str, str | None] = {}
    texts: list[SplitRow] = []
    for row in source.read(matches):
        total.update(canonical_json(_describe(row, images, digests)))
        rows += 1
        if isinstance(row, Sample):
            texts.append(SplitRow.of(row))
    return Survey(rows=rows, digest=total.hexdigest(), texts=tuple(texts))


def _demand_an_image(rows: Iterable[Sample | Rejected], column: str) -> Iterator[Sample | Rejected]:
    """Pass rows on; raise `UserError` at their end if there are samples and none has an image."""
    any_sample = any_image = False
    for row in rows:
        if isinstance(row, Sample):
            # An empty question is rejected later, whatever it has.
            any_sample = any_sample or bool(row.question.strip())
            any_image = any_image or bool(row.shown)
        yield row
    if any_sample and not any_image:
        raise UserError(
            f"images is given, and no row names one in the column {column!r}; name theirs "
            "(`columns: {image: NAME}`), or leave images out."
        )


def _name_image_column(options: Mapping[str, Any]) -> str:
    columns = options.get("columns") or {}
    names = next((columns[field] for field in MEDIA_FIELDS if columns.get(field)), "image")
    return names if isinstance(names, str) else str(names[0])


def digest_image(sample: Sample, images: ImageFolder | None, known: dict[str, str | None]) -> str | None:
    """The digest of a sample's image file, computed once per name; None without a readable image."""
    return None if sample.image is None else _digest_once(sample.image, images, known)


def digest_media(
    sample: Sample, images: ImageFolder | None, known: dict[str, str | None]
) -> list[str | None]:
    """The digests of the files of a sample's media, in order; of a folder of frames, of their names and digests."""
    return [_digest_once(medium.name, images, known) for medium in sample.media]


def digest_named(images: ImageFolder, name: str) -> str | None:
    """The digest of a file, or of the names and digests in a folder of frames; None if it cannot be read."""
    found = images.find(name)
    try:
        return _digest_folder(name, images) if found is None else digest_file(found[1])
    except (OSError, UserError):
        return None  # screening will report why it cannot be read


def _digest_once(name: str, images: ImageFolder | None, known: dict[str, str | None]) -> str | None:
    if images is None:
        return None
    if name not in known:
        known[name] = digest_named(images, name)
    return known[name]


def _digest_folder(name: str, images: ImageFolder) -> str | None:
    """Digest a folder of frames; None where there is none."""
    path, *frames = locate_medium(images.root, name, "video")
    return digest([[frame.name, digest_file(frame)] for frame in frames]) if path.is_dir() else None


def _draw_some(rows: Iterable[Sample | Rejected], limit: int) -> Iterator[Sample | Rejected]:
    """Yield the rejected rows, then the `limit` samples with the smallest draws, in file order."""
    kept: list[tuple[float, int, Sample]] = []
    for place, row in enumerate(rows):
        if isinstance(row, Rejected):
            yield row
            continue
        # A max-heap of draws, so that memory is `limit` samples.
        # Twins are drawn together, or few pairs would be left.
        offer = -draw(row.twin or f"{row.id} {row.question}", seed=LIMIT_SEED), place, row
        if len(kept) < limit:
            heapq.heappush(kept, offer)
        else:
            heapq.heappushpop(kept, offer)
    for _, _, sample in sorted(kept, key=lambda one: one[1]):
        yield sample


def _give_image(row: Sample | Rejected, matches: Matches) -> Sample | Rejected:
    if isinstance(row, Rejected) or row.shown or (match := matches.get(row.id)) is None:
        return row
    try:
        question = take_out_marker(row.question)
    except RowError as error:
        return reject(
            dataset=row.dataset, line=row.line, reason=str(error), raw=row.question, identity=row.id
        )
    removed = row.removed if question == row.question else MARKER
    caption = row.caption or match.caption
    return dataclasses.replace(row, question=question, removed=removed, image=match.image, caption=caption)


def _describe(
    row: Sample | Rejected, images: ImageFolder | None, digests: dict[str, str | None]
) -> dict[str, Any]:
    if isinstance(row, Rejected):
        # A bad row's line number is part of its quarantine row.
        return dict(vars(row))
    described = {**vars(row), "digest": digest_image(row, images, digests)}
    # A blank line above a sample changes its line number and nothing else.
    del described["line"]
    # Keeps the keys of earlier releases, which knew no markers and no twins.
    for name in ("removed", "twin"):
        if described[name] is None:
            del described[name]
    # And those of samples with one image or none.
    del described["media"]
    if row.media:
        digests_of = digest_media(row, images, digests)
        described["media"] = [
            {**vars(one), "digest": found} for one, found in zip(row.media, digests_of, strict=True)
        ]
    return described
