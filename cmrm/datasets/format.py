"""The `Format` of a data set: its reader function and the reader's options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmrm.datasets.media_columns import MediaColumns
from cmrm.datasets.rows import Record
from cmrm.prompts.sample import Rejected, Sample

# Reads the rows of one Parquet file; cmrm itself does not import pyarrow.
OpenRows = Callable[[Path], Iterable[Mapping[str, Any]]]
# Replaces each URL in the columns of media by the name of the downloaded file, or a `LostMedium`.
FetchImages = Callable[[Iterable[Record | Rejected], MediaColumns], Iterator[Record | Rejected]]
# Options of the formats for users' own files.
OWN_OPTIONS = frozenset(("columns", "harmful", "constants"))
# Needed by formats whose rows may embed images or name them by URL: the image folder and the downloader.
IMAGES = frozenset(("images", "fetch_images"))
# Judges of users' own files: both what a safe model refuses and what has a short reference may be in them.
OWN_JUDGES = ("refusal", "match")


@dataclass(frozen=True, kw_only=True)
class Format:
    """A data set format: reader, harmfulness of its questions, and options.

    `read(path, *, dataset, **options)` yields samples and rejected rows in file order. `harmful` is None if each row
    states it. `options` are the fields of a spec's data set that the reader takes, `files` those of them that are paths
    of additional files. `needs` are further arguments: `images` (the image folder), `open_rows`, or `fetch_images`,
    which is None where nothing is downloaded. `judges` are the kinds of judges that fit the data set and need no model
    of their own, the first one first. `title` and `address` say by what name and where the data set was published, ''
    for users' own files.
    """

    read: Callable[..., Iterator[Sample | Rejected]]
    harmful: bool | None
    options: frozenset[str] = frozenset()
    files: frozenset[str] = frozenset()
    needs: frozenset[str] = frozenset()
    judges: tuple[str, ...] = ("refusal",)
    title: str = ""
    address: str = ""
