"""A person's own requests, as JSONL with columns of any name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from cmrm.datasets.fields import RowError, content_id, get_id, get_text, get_text_or_none
from cmrm.datasets.rows import Record, make_samples, read_objects
from cmrm.errors import UserError
from cmrm.samples import Rejected, Sample

COLUMNS = ("id", "question", "image", "caption", "category", "reference", "harmful")


def read_jsonl(
    path: Path, *, dataset: str, columns: Mapping[str, str] | None = None, harmful: bool = True
) -> Iterator[Sample | Rejected]:
    """Read one object a line; only the question is required.

    `columns` maps `id`, `question`, `image`, `caption`, `category`, `reference` and `harmful` to the file's own names
    and defaults to the same names. A row without an id is named by its content. `harmful` holds for the rows that do
    not say it themselves by true or false. Raises `UserError` for a column that is none of these.
    """
    own = _map_columns(columns or {}, dataset)

    def make(record: Record) -> Sample:
        fields = record.fields
        question = get_text(fields, own["question"])
        image = get_text_or_none(fields, own["image"])
        named = fields.get(own["id"]) is not None
        return Sample(
            id=get_id(fields, own["id"]) if named else content_id(question, image),
            dataset=dataset,
            question=question,
            harmful=_get_harmful(record, own["harmful"], harmful),
            image=image,
            caption=get_text_or_none(fields, own["caption"]),
            category=get_text_or_none(fields, own["category"]),
            reference=get_text_or_none(fields, own["reference"]),
            line=record.line,
        )

    return make_samples(read_objects(path, dataset=dataset), make, dataset=dataset, id_field=own["id"])


def _map_columns(columns: Mapping[str, str], dataset: str) -> dict[str, str]:
    for column, name in columns.items():
        if column not in COLUMNS:
            raise UserError(
                f"data set {dataset!r}: columns has {column!r}, which is none of {', '.join(COLUMNS)}; "
                "write `question: the name your file uses`."
            )
        if not isinstance(name, str):
            raise UserError(
                f"data set {dataset!r}: columns.{column} is {name!r}; give a column's name as text."
            )
    return {column: columns.get(column, column) for column in COLUMNS}


def _get_harmful(record: Record, name: str, default: bool) -> bool:  # noqa: FBT001 - a value, not a switch
    value = record.fields.get(name, default)
    if not isinstance(value, bool):
        raise RowError(f"field {name!r} is {value!r}, neither true nor false")
    return value
