"""Parquet files of a user's own requests, with any column names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.datasets.columns import read_columns
from cmrm.datasets.format import IMAGES, OWN_JUDGES, OWN_OPTIONS, FetchImages, Format, OpenRows
from cmrm.datasets.held_media import make_own_samples
from cmrm.datasets.parquet_rows import find_shards, make_shard_check, read_shards
from cmrm.prompts.sample import Rejected, Sample


def read_parquet(
    path: Path,
    *,
    dataset: str,
    open_rows: OpenRows,
    images: Path | None = None,
    fetch_images: FetchImages | None = None,
    columns: Mapping[str, str] | None = None,
    harmful: bool | Mapping[str, Any] = True,
    constants: Mapping[str, str] | None = None,
) -> Iterator[Sample | Rejected]:
    """Read a Parquet file, or all in a folder by their paths, one row a sample; a row's line is its number.

    An image embedded in a row, as bytes or as Hugging Face's {bytes, path}, is extracted to the folder `images`
    (`held_media`).
    `columns`, `harmful` and `constants` are those of `jsonl`. `open_rows` streams the file's rows as
    mappings of Python values: cmrm imports no Parquet library, so the caller passes a reader. Raises `UserError` if a
    file is missing, damaged, not Parquet, or lacks a mapped column, or one of a sample's that another has.
    """
    own = read_columns(columns, dataset=dataset, harmful=harmful, constants=constants)
    check = make_shard_check(own.read_names(), lambda row, _: own.check_header(row))
    records = own.watch(read_shards(find_shards(path), open_rows, check))
    return make_own_samples(records, own, images=images, fetch_images=fetch_images)


FORMAT = Format(
    read=read_parquet, harmful=None, options=OWN_OPTIONS, needs=IMAGES | {"open_rows"}, judges=OWN_JUDGES
)
