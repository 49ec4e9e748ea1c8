"""Data set loading: file formats, row validation and quarantine, and the split into anchors and targets.

Imports `cmrm.models` and what that imports.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal, get_args

from cmrm.datasets.format import FetchImages, OpenRows
from cmrm.datasets.formats import Format, find_format, list_formats
from cmrm.datasets.image_folder import ImageFolder, match_basenames
from cmrm.datasets.screening import screen
from cmrm.datasets.selection import keep_categories, refuse_nothing
from cmrm.datasets.splits import split
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample
from cmrm.prompts.videos import MOST_FRAMES
from cmrm.untrusted.printable import show_value
from cmrm.untrusted.regular_file import refuse_forbidden

__all__ = ["Format", "Match", "find_format", "list_formats", "read_dataset", "screen", "split"]

Match = Literal["name", "basename"]
# Options of every format.
GENERAL_OPTIONS = ("categories", "match", "frames")


def read_dataset(
    name: str,
    path: str | PathLike[str],
    *,
    dataset: str,
    images: Path | None = None,
    open_rows: OpenRows | None = None,
    fetch_images: FetchImages | None = None,
    categories: Sequence[str] | None = None,
    match: Match = "name",
    frames: int | None = None,
    **options: Any,
) -> Iterator[Sample | Rejected]:
    """Read a data set in the format `name`, row by row; `categories` filters its samples.

    With `match` "basename", a file that is not found under its path is looked up by its base name. `frames` is the
    most frames that are shown of a video. `images` is the folder of images, videos and sounds, `open_rows` reads the
    rows of a Parquet file, and `fetch_images` downloads files that rows name by
    URL; each is passed only to formats that need it (`Format.needs`). Raises `UserError` for an unknown format, option
    or `match`, and, during iteration, for a missing or empty file and for a category that no sample has.

    >>> import cmrm, pathlib
    >>> path = pathlib.Path("mine.jsonl")
    >>> _ = path.write_text('{"id": "1", "question": "what is a wug?"}')
    >>> [(sample.id, sample.question) for sample in cmrm.read_dataset("jsonl", path, dataset="mine")]
    [('1', 'what is a wug?')]
    """
    chosen = find_format(name)
    if unknown := sorted(options.keys() - chosen.options):
        known = ", ".join(sorted(chosen.options | set(GENERAL_OPTIONS)))
        raise UserError(
            f"data set {dataset!r}: format {name!r} has no option {', '.join(map(repr, unknown))}; it takes {known}."
        )
    if match not in get_args(Match):
        known = " or ".join(get_args(Match))
        raise UserError(f"data set {dataset!r}: match is {show_value(match)}; give {known}.")
    if frames is not None and not 1 <= frames <= MOST_FRAMES:
        raise UserError(f"data set {dataset!r}: frames is {frames}; give 1 to {MOST_FRAMES}.")
    path = Path(path)
    refuse_forbidden(path)
    handed = {"images": images, "open_rows": open_rows or _refuse_parquet, "fetch_images": fetch_images}
    needed = {need: handed[need] for need in chosen.needs}
    rows = refuse_nothing(chosen.read(path, dataset=dataset, **needed, **options), path)
    if match == "basename":
        rows = match_basenames(rows, None if images is None else ImageFolder(images), dataset=dataset)
    if frames is not None:
        rows = (_limit_frames(row, frames) for row in rows)
    return rows if categories is None else keep_categories(rows, categories, dataset=dataset)


def _limit_frames(row: Sample | Rejected, frames: int) -> Sample | Rejected:
    if isinstance(row, Rejected) or not row.media:
        return row
    media = (replace(one, frames=frames) if one.kind == "video" else one for one in row.media)
    return replace(row, media=tuple(media))


def _refuse_parquet(path: Path) -> Iterator[Mapping[str, Any]]:
    raise UserError(
        f"{path} is Parquet, of which cmrm alone has no reader; give open_rows=storage.tables.parquet.iterate_rows."
    )
