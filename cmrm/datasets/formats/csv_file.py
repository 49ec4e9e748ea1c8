"""CSV and TSV files of a user's own requests, with any column names and any delimiter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmrm.datasets.columns import OwnColumns, read_columns
from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.fields import cut
from cmrm.datasets.format import IMAGES, OWN_JUDGES, OWN_OPTIONS, FetchImages, Format
from cmrm.datasets.held_media import make_own_samples
from cmrm.datasets.rows import Record
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample

# Other common delimiters, as written in a spec.
_OTHERS = {";": ";", "\t": "\\t", "|": "|", ",": ","}


def read_csv(
    path: Path,
    *,
    dataset: str,
    images: Path | None = None,
    fetch_images: FetchImages | None = None,
    columns: Mapping[str, str] | None = None,
    harmful: bool | Mapping[str, Any] = True,
    constants: Mapping[str, str] | None = None,
    delimiter: str | None = None,
) -> Iterator[Sample | Rejected]:
    """Read a CSV file with a header; only the question is required.

    The other options are those of `jsonl`; an empty cell is an absent field. `delimiter` is one character, by default
    the one that a first line such as `sep=;` names, else a tab where the file is named .tsv or .tab, and a comma
    elsewhere. Raises `UserError` if a mapped column is missing
    from the header.
    """
    own = read_columns(columns, dataset=dataset, harmful=harmful, constants=constants)
    if delimiter is not None and (len(delimiter) != 1 or delimiter in '"\r\n'):
        raise UserError(
            f'data set {dataset!r}: delimiter is {cut(repr(delimiter))}; give one character, such as ";" or "\\t".'
        )

    def check(header: Sequence[str]) -> None:
        _refuse_another_delimiter(header, own, path)
        own.check_header(header)

    records = own.watch(
        _null_empty_cells(read_table(path, dataset=dataset, check=check, delimiter=delimiter), own)
    )
    return make_own_samples(records, own, images=images, fetch_images=fetch_images)


def _refuse_another_delimiter(header: Sequence[str], own: OwnColumns, path: Path) -> None:
    """Raise `UserError` if a header with one column contains another common delimiter."""
    if len(header) != 1 or header[0] in own.names.values():
        return
    for character, written in _OTHERS.items():
        if character in header[0]:
            raise UserError(
                f"{path} has one column, {cut(header[0])!r}, which {written!r} seems to separate; "
                f'write `delimiter: "{written}"`.'
            )


def _null_empty_cells(records: Iterable[Record | Rejected], own: OwnColumns) -> Iterator[Record | Rejected]:
    question = own.names["question"]
    for record in records:
        if isinstance(record, Rejected):
            yield record
            continue
        # An empty question is kept, so that screening rejects it with that reason. Null, as in the other kinds of file,
        # says that the column is there.
        fields = {
            name: text if text.strip() or name == question else None for name, text in record.fields.items()
        }
        yield dataclasses.replace(record, fields=fields)


FORMAT = Format(
    read=read_csv, harmful=None, options=OWN_OPTIONS | {"delimiter"}, needs=IMAGES, judges=OWN_JUDGES
)
