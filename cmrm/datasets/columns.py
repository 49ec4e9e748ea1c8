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
from cmrm.datasets.image_markers import MARKER, take_out_marker
from cmrm.datasets.rows import Record
from cmrm.datasets.truths import Truths, read_truths
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.printable import show, show_value

# Fields that a column may give, and fields that a spec may set as a constant for all rows.
TEXTS = ("caption", "category", "context", "group")
FIELDS = ("id", "question", "choices", "image", "reference", "harmful", "twin", *TEXTS)
CONSTANTS = ("question", "image", "reference", *TEXTS)

MAX_NAMED = 20
# Bounds what is collected for messages: a malformed file may have another key or label in each row.
MAX_SEEN = 1000


@dataclass(frozen=True, kw_only=True)
class OwnColumns:
    """How rows of a user's own file become samples.

    `names` maps a sample's fields to columns, which may be dotted paths; `given` are the fields that the spec maps.
    `constants` override the file for every row.
    """

    dataset: str
    names: Mapping[str, str]
    given: frozenset[str]
    constants: Mapping[str, str]
    truths: Truths

    def check_header(self, header: Sequence[str] | Mapping[str, Any]) -> None:
        """Raise `UserError` if a required column is missing from a file's header or first row.

        For files whose rows all have the same columns; nested fields are checked by `watch`.
        """
        for field, name in self._needed().items():
            if name not in header and name.split(".")[0] not in header:
                raise self._missing(
                    field, list(list_paths(header) if isinstance(header, Mapping) else header)
                )

    def read_names(self) -> list[str]:
        """List the columns, or dotted paths to fields, that are read where a row has them."""
        return [name for field, name in self.names.items() if field not in self.constants]

    def watch(self, records: Iterable[Record | Rejected], *, hint: str = "") -> Iterator[Record | Rejected]:
        """Pass rows through; at the end, raise `UserError` for a required field or mapped value that no row had.

        A column that is there and empty is an error only as the one that says what is harmful.

        `hint` is appended to the message about a field.
        """
        needed = dict(self._needed())
        paths: dict[str, None] = {}
        values: dict[str, None] = {}
        any_row = False
        harmful = self.names["harmful"]
        labelled = "harmful" not in self.given
        for record in records:
            if isinstance(record, Record):
                any_row = True
                if needed:
                    needed = {
                        field: name
                        for field, name in needed.items()
                        if find_field(record.fields, name) is ABSENT
                    }
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
            raise self._missing(next(iter(needed)), list(paths), hint)
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
        texts = {field: self._read_text(row, field) for field in ("image", *TEXTS)}
        image = texts.pop("image")
        question = self.constants.get("question") or get_plain(row, self.names["question"])
        asked = question if image is None else take_out_marker(question)
        choices = self._read_choices(row)
        reference = self._read_text(row, "reference") if choices is None else self._read_letter(row, choices)
        # Rotations of the choices are one question, and on one side of the split.
        # So are twins, or no pair would be complete.
        twin = self._read_text(row, "twin")
        group = texts["group"] or twin or (None if choices is None else asked)
        asked = asked if choices is None else ask_with_choices(asked, choices)
        harmful = self.names["harmful"]
        return Sample(
            id=self._name(record, row) or content_id(asked, image, self._tell_apart(row, texts, reference)),
            dataset=self.dataset,
            question=asked,
            harmful=self.truths.read(row, harmful),
            image=image,
            reference=reference,
            twin=twin,
            removed=None if image is None or MARKER not in question else MARKER,
            media=(),
            line=record.line,
            **{**texts, "group": group},
        )

    def _needed(self) -> dict[str, str]:
        """Return the fields, with columns, that some row must have: the question, and all that the spec maps."""
        return {
            field: name
            for field, name in self.names.items()
            if field in self.given or (field == "question" and field not in self.constants)
        }

    def _missing(self, field: str, present: Sequence[str], hint: str = "") -> UserError:
        name = self.names[field]
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
        self, row: Mapping[str, Any], texts: Mapping[str, str | None], reference: str | None
    ) -> dict[str, str]:
        """Return the row's own fields, constants excluded, that the content id includes next to question and image."""
        said = {**texts, "reference": reference, "harmful": row.get(self.names["harmful"])}
        return {
            field: str(write_plainly(value, field))
            for field, value in said.items()
            if value is not None and field not in self.constants
        }


def read_columns(
    columns: Mapping[str, str] | None,
    *,
    dataset: str,
    harmful: bool | Mapping[str, Any] = True,
    constants: Mapping[str, str] | None = None,
) -> OwnColumns:
    """Build the column mapping of a spec; a field without an entry maps to the column of the same name.

    `harmful` is the default for rows without that field, or maps the values of a column (`truths.read_truths`). Raises
    `UserError` for an unknown field, a column name or constant that is not a text, and a field that is set twice.
    """
    given, fixed = dict(columns or {}), dict(constants or {})
    _refuse_unknown(
        given, FIELDS, dataset=dataset, where="columns", example="question: the name your file uses"
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
    return OwnColumns(
        dataset=dataset,
        names={field: given.get(field, field) for field in FIELDS},
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


def _show(value: object) -> str | None:
    """Write a cell for a message, None if it holds nothing."""
    try:
        plain = None if value is ABSENT else write_plainly(value, "")
    except RowError:
        return "a list"
    return None if plain is None else str(plain)
