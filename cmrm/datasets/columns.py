"""Column mapping: which column of a user's own file gives which field of a sample, for any file type."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.datasets.choices import ask_with_choices, get_choices, get_letter
from cmrm.datasets.documents import KEY
from cmrm.datasets.dotted import ABSENT, find_field, list_paths
from cmrm.datasets.fields import (
    RowError,
    content_id,
    cut,
    get_id,
    get_plain,
    get_plain_or_none,
    write_plainly,
)
from cmrm.datasets.image_markers import MARKER, take_out_marker, take_out_markers
from cmrm.datasets.media_columns import MEDIA_FIELDS, MediaColumns, find_media_columns
from cmrm.datasets.rows import Record
from cmrm.datasets.truths import Truths, read_truths
from cmrm.errors import UserError
from cmrm.prompts.media import Medium
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.printable import show, show_value

# Fields that a column may give, and fields that a spec may set as a constant for all rows.
TEXTS = ("caption", "category", "context", "group")
FIELDS = ("id", "question", "choices", "reference", "harmful", "twin", *TEXTS)
ALL_FIELDS = (*FIELDS, *MEDIA_FIELDS)
CONSTANTS = ("question", "image", "reference", *TEXTS)

# Above what any model takes in one turn.
MAX_MEDIA = 256
MAX_NAMED = 20
# Bounds what is collected for messages: a malformed file may have another key or label in each row.
MAX_SEEN = 1000


@dataclass(frozen=True, kw_only=True)
class OwnColumns:
    """How rows of a user's own file become samples.

    `names` maps a sample's fields to columns, which may be dotted paths, and `media` are the columns of its images,
    videos and sounds; `given` are the fields that the spec maps. `constants` override the file for every row.
    """

    dataset: str
    names: Mapping[str, str]
    media: MediaColumns
    given: frozenset[str]
    constants: Mapping[str, str]
    truths: Truths

    def check_header(self, header: Sequence[str] | Mapping[str, Any]) -> None:
        """Raise `UserError` if a required column is missing from a file's header or first row.

        For files whose rows all have the same columns; nested fields are checked by `watch`.
        """
        for field, name in self._needed():
            if name not in header and name.split(".")[0] not in header:
                raise self._missing(
                    field, name, list(list_paths(header) if isinstance(header, Mapping) else header)
                )

    def read_names(self) -> list[str]:
        """List the columns, or dotted paths to fields, that are read where a row has them."""
        media = [(column.field, column.name) for column in self.media.columns]
        return [name for field, name in (*self.names.items(), *media) if field not in self.constants]

    def watch(self, records: Iterable[Record | Rejected], *, hint: str = "") -> Iterator[Record | Rejected]:
        """Pass rows through; at the end, raise `UserError` for a required field or mapped value that no row had.

        A column that is there and empty is an error only as the one that says what is harmful.

        `hint` is appended to the message about a field.
        """
        needed = self._needed()
        paths: dict[str, None] = {}
        values: dict[str, None] = {}
        any_row = False
        harmful = self.names["harmful"]
        labelled = "harmful" not in self.given
        for record in records:
            if isinstance(record, Record):
                any_row = True
                if needed:
                    needed = [one for one in needed if find_field(record.fields, one[1]) is ABSENT]
                if needed and len(paths) < MAX_SEEN:
                    paths |= dict.fromkeys(name for name in list_paths(record.fields) if name != KEY)
                if (
                    "harmful" in self.given
                    and (label := _show(find_field(record.fields, harmful))) is not None
                ):
                    labelled = True
                    if self.truths.column is not None and len(values) < MAX_SEEN:
                        values[label] = None
            yield record
        if needed and any_row:
            raise self._missing(*needed[0], list(paths), hint)
        if any_row and not labelled:
            raise UserError(
                f"the column {show_value(harmful)} of {self.dataset}, which {self._name_option('harmful')} names, is "
                "empty in all rows; fill it, or write `harmful: true` or `harmful: false` for all of them."
            )
        if any_row:
            self.truths.refuse_values_that_no_row_has(values, dataset=self.dataset)

    def make(self, record: Record) -> Sample:
        """Convert a row to a sample; only the question is required, and a missing id is a digest of the content.

        Raises `RowError` for a field of the wrong type.
        """
        row = {
            name: value
            for name in self.names.values()
            if (value := find_field(record.fields, name)) is not ABSENT and value is not None
        }
        texts = {field: self._read_text(row, field) for field in TEXTS}
        media = self._read_media(record)
        question = self.constants.get("question") or get_plain(row, self.names["question"])
        image = media[0].name if [one.kind for one in media] == ["image"] else None
        if image is not None:
            asked, media, removed = take_out_marker(question), (), MARKER if MARKER in question else None
        else:
            asked, media, removed = take_out_markers(question, media)
        choices = self._read_choices(row)
        reference = self._read_text(row, "reference") if choices is None else self._read_letter(row, choices)
        # Rotations of the choices are one question, and on one side of the split.
        # So are twins, or no pair would be complete.
        twin = self._read_text(row, "twin")
        group = texts["group"] or twin or (None if choices is None else asked)
        asked = asked if choices is None else ask_with_choices(asked, choices)
        harmful = self.names["harmful"]
        return Sample(
            id=self._name(record, row)
            or content_id(asked, image, self._tell_apart(row, texts, reference, media)),
            dataset=self.dataset,
            question=asked,
            harmful=self.truths.read(row, harmful),
            image=image,
            reference=reference,
            twin=twin,
            removed=removed,
            media=media,
            line=record.line,
            **{**texts, "group": group},
        )

    def _needed(self) -> list[tuple[str, str]]:
        """List the fields, with columns, that some row must have: the question, and all that the spec maps."""
        return [
            (field, name)
            for field, name in self.names.items()
            if field in self.given or (field == "question" and field not in self.constants)
        ] + [(column.field, column.name) for column in self.media.columns if column.mapped]

    def _missing(self, field: str, name: str, present: Sequence[str], hint: str = "") -> UserError:
        folded = {one.casefold(): one for one in reversed(present)}
        near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
        named = f", which {self._name_option(field)} names" if field in self.given else ""
        listed = ", ".join(show(one, most=40) for one in present[:MAX_NAMED]) or "none"
        more = f" and {len(present) - MAX_NAMED} more" if len(present) > MAX_NAMED else ""
        found = f"it has {show_value(folded[near[0]])}" if near else f"write `columns: {{{field}: NAME}}`"
        return UserError(
            f"no row of {self.dataset} has {show_value(name)}{named}; {found}. Its fields are {listed}{more}.{hint}"
        )

    def _name_option(self, field: str) -> str:
        """Name the option of the spec that maps a field."""
        return (
            "harmful.column" if field == "harmful" and self.truths.column is not None else f"columns.{field}"
        )

    def _read_text(self, row: Mapping[str, Any], field: str) -> str | None:
        if self.constants and field in self.constants:
            return self.constants[field]
        name = self.names[field]
        return get_plain_or_none(row, name) if name in row else None

    def _read_media(self, record: Record) -> tuple[Medium, ...]:
        if (constant := self.constants.get("image")) is not None:
            return (Medium(kind="image", name=constant),)
        named = tuple(
            Medium(kind=column.kind, name=name)
            for column, cells in self.media.choose(record.fields)
            for cell in cells
            if (name := get_plain_or_none({column.name: cell}, column.name)) is not None
        )
        if len(named) > MAX_MEDIA:
            raise RowError(f"{len(named):,} images, videos and sounds are given, more than {MAX_MEDIA}")
        return named

    def _read_choices(self, row: Mapping[str, Any]) -> list[str] | None:
        name = self.names["choices"]
        # A column that happens to be named `choices` may hold anything; one that the spec maps must be a list.
        if row.get(name) is None or ("choices" not in self.given and not isinstance(row[name], list)):
            return None
        return get_choices(row, name)

    def _read_letter(self, row: Mapping[str, Any], choices: list[str]) -> str | None:
        constant = self.constants.get("reference")
        if constant is not None:
            return get_letter({"constants.reference": constant}, "constants.reference", choices)
        return get_letter(row, self.names["reference"], choices)

    def _name(self, record: Record, row: Mapping[str, Any]) -> str | None:
        name = self.names["id"]
        if row.get(name) is not None:
            return get_id({name: write_plainly(row[name], name)}, name)
        # In an object of id → row, the key is the id.
        return get_id(record.fields, KEY) if KEY in record.fields else None

    def _tell_apart(
        self,
        row: Mapping[str, Any],
        texts: Mapping[str, str | None],
        reference: str | None,
        media: Sequence[Medium],
    ) -> dict[str, str]:
        """Return the row's own fields, constants excluded, that the content id includes next to question and image."""
        listed = " ".join(f"{one.kind}:{one.name}" for one in media) or None
        said = {
            **texts,
            "reference": reference,
            "media": listed,
            "harmful": row.get(self.names["harmful"]),
        }
        return {
            field: str(write_plainly(value, field))
            for field, value in said.items()
            if value is not None and field not in self.constants
        }


def read_columns(
    columns: Mapping[str, str | Sequence[str]] | None,
    *,
    dataset: str,
    harmful: bool | Mapping[str, Any] = True,
    constants: Mapping[str, str] | None = None,
) -> OwnColumns:
    """Build the column mapping of a spec; a field without an entry maps to the column of the same name.

    A field of media may be mapped to several columns, or to none by an empty list.
    `harmful` is the default for rows without that field, or maps the values of a column (`truths.read_truths`). Raises
    `UserError` for an unknown field, a column name or constant that is not a text, and a field that is set twice.
    """
    given, fixed = dict(columns or {}), dict(constants or {})
    _refuse_unknown(
        {field: value for field, value in given.items() if not _names_columns(field, value)},
        ALL_FIELDS,
        dataset=dataset,
        where="columns",
        example="question: the name your file uses",
    )
    _refuse_unknown(fixed, CONSTANTS, dataset=dataset, where="constants", example="category: photographs")
    if twice := sorted(given.keys() & fixed.keys()):
        raise UserError(
            f"data set {dataset!r}: {twice[0]} stands under columns and under constants; keep one."
        )
    truths = read_truths(given=harmful, dataset=dataset)
    if truths.column is not None:
        if "harmful" in given:
            raise UserError(
                f"data set {dataset!r}: columns.harmful and harmful.column name a column each; keep one."
            )
        given["harmful"] = truths.column
    names = {field: str(given.get(field, field)) for field in FIELDS}
    taken = frozenset(names[field] for field in FIELDS if field in given)
    return OwnColumns(
        dataset=dataset,
        names=names,
        media=find_media_columns(given, taken=taken),
        given=frozenset(given),
        constants=fixed,
        truths=truths,
    )


def _refuse_unknown(
    given: Mapping[str, Any], known: Sequence[str], *, dataset: str, where: str, example: str
) -> None:
    for field, value in given.items():
        if field not in known:
            raise UserError(
                f"data set {dataset!r}: {where} has {cut(str(field))!r}, which is none of {', '.join(known)}; "
                f"write `{example}`."
            )
        if not isinstance(value, str) or not value:
            raise UserError(f"data set {dataset!r}: {where}.{field} is {cut(repr(value))}; give it as text.")


def _names_columns(field: str, value: object) -> bool:
    """Whether a field of media is mapped to a list of columns."""
    return (
        field in MEDIA_FIELDS
        and isinstance(value, list | tuple)
        and all(isinstance(name, str) and name for name in value)
    )


def _show(value: object) -> str | None:
    """Write a cell for a message, None if it holds nothing."""
    try:
        plain = None if value is ABSENT else write_plainly(value, "")
    except RowError:
        return "a list"
    return None if plain is None else str(plain)
