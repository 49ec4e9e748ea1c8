"""Which columns of a row give its images, videos and sounds, and which of them a row fills."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from cmrm.datasets.dotted import ABSENT, find_field
from cmrm.prompts.media import MediumKind

# The fields of a row that give media, in the order in which the media stand before the question.
MEDIA_FIELDS: Mapping[str, MediumKind] = MappingProxyType(
    {
        "image": "image",
        "images": "image",
        "video": "video",
        "videos": "video",
        "audio": "audio",
        "audios": "audio",
    }
)


@dataclass(frozen=True, kw_only=True)
class MediaColumn:
    """A column that gives media of one kind: a name or an embedded file, or a list of these.

    `field` is the sample's field that it stands for, and `mapped` says that the spec names the column.
    """

    field: str
    kind: MediumKind
    name: str
    mapped: bool

    def list_cells(self, fields: Mapping[str, Any]) -> list[Any]:
        """List what a row has in the column, empty entries left out; of a plural field, a text may be a JSON list."""
        value = find_field(fields, self.name)
        if isinstance(value, str) and self.field.endswith("s") and value.lstrip().startswith("["):
            value = _read_list(value)
        return [one for one in (value if isinstance(value, list) else [value]) if not _is_empty(one)]


@dataclass(frozen=True, kw_only=True)
class MediaColumns:
    """All columns that may give media, in the order of `MEDIA_FIELDS`, several of a field as the spec lists them."""

    columns: tuple[MediaColumn, ...]

    def choose(self, fields: Mapping[str, Any]) -> Iterator[tuple[MediaColumn, list[Any]]]:
        """Yield the columns that a row's media are taken from, with what it has there.

        These are the columns that the spec maps, and `image`; only in a row that has nothing there, columns that
        happen to be named as one of the other fields.
        """
        filled = [(column, cells) for column in self.columns if (cells := column.list_cells(fields))]
        first = [one for one in filled if one[0].mapped or one[0].field == "image"]
        # A column that happens to be named `images` may hold their number.
        yield from first or [
            one for one in filled if not any(isinstance(cell, int | float) for cell in one[1])
        ]

    def name_field(self, field: str) -> str:
        """Name the first column of a field."""
        return next((column.name for column in self.columns if column.field == field), field)


def find_media_columns(
    given: Mapping[str, str | Sequence[str]], *, taken: frozenset[str] = frozenset()
) -> MediaColumns:
    """Build the columns of media from those that a spec maps, by field.

    A field that is not mapped has the column of its own name, unless that is among the columns `taken` by others.
    """
    mapped = {
        field: [names] if isinstance(names, str) else list(names)
        for field, names in given.items()
        if field in MEDIA_FIELDS
    }
    used = taken.union(*mapped.values())
    columns = []
    for field, kind in MEDIA_FIELDS.items():
        default = [field] if field == "image" or field not in used else []
        columns += [
            MediaColumn(field=field, kind=kind, name=name, mapped=field in mapped)
            for name in mapped.get(field, default)
        ]
    return MediaColumns(columns=tuple(columns))


def put_cells(fields: Mapping[str, Any], replaced: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Replace what a row has in columns; a single entry stands for itself."""
    return {
        **fields,
        **{name: cells[0] if len(cells) == 1 else list(cells) for name, cells in replaced.items()},
    }


def _is_empty(value: object) -> bool:
    if value is ABSENT or value is None or value == []:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float):
        return math.isnan(value)
    # Hugging Face's struct of nothing.
    return isinstance(value, dict) and value.keys() <= {"bytes", "path"} and set(value.values()) == {None}


def _read_list(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text
