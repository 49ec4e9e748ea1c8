"""JSONL files of a user's own requests, with any field names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.columns import read_columns
from cmrm.datasets.compressed import strip_compression
from cmrm.datasets.format import IMAGES, OWN_JUDGES, OWN_OPTIONS, FetchImages, Format
from cmrm.datasets.held_media import make_own_samples
from cmrm.datasets.rows import read_objects
from cmrm.prompts.sample import Rejected, Sample


def read_jsonl(
    path: Path,
    *,
    dataset: str,
    images: Path | None = None,
    fetch_images: FetchImages | None = None,
    columns: Mapping[str, str] | None = None,
    harmful: bool | Mapping[str, Any] = True,
    constants: Mapping[str, str] | None = None,
) -> Iterator[Sample | Rejected]:
    """Read one object a line; only the question is required.

    `columns` maps the fields of a sample (`columns.FIELDS`) to the file's own names, which may be dotted paths, and
    defaults to the same names. An image embedded as base64 or a `data:` URL is extracted to the folder `images`
    (`held_media`). A row without an id gets a digest of its content. `harmful` is the default for rows without that
    field, or {column, true, false} with the values that mean harmful. `constants` set a field for all rows. Raises
    `UserError` for an unknown field, and for a column that no row has.
    """
    own = read_columns(columns, dataset=dataset, harmful=harmful, constants=constants)
    # A JSON document on one line would parse as one row.
    document = strip_compression(path).suffix == ".json"
    hint = " If the file is one JSON document, write `format: json`." if document else ""
    records = own.watch(read_objects(path, dataset=dataset), hint=hint)
    return make_own_samples(records, own, images=images, fetch_images=fetch_images)


FORMAT = Format(read=read_jsonl, harmful=None, options=OWN_OPTIONS, needs=IMAGES, judges=OWN_JUDGES)
