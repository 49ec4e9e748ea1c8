"""Rows of a file as answers: which field is the id, which the answer, and what a row says besides."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from cmrm.datasets.csv_rows import read_table
from cmrm.datasets.dotted import ABSENT, find_field, list_paths
from cmrm.datasets.fields import RowError, cut, get_id, get_text, is_storable, name_type, write_plainly
from cmrm.datasets.parquet_rows import read_shards
from cmrm.datasets.rows import Record, read_objects
from cmrm.errors import UserError
from cmrm.prompts.conditions import Condition
from cmrm.prompts.sample import Rejected
from cmrm.untrusted.printable import show, show_value
from storage.tables.parquet import iterate_rows
from tasks.imported.given_answer import GivenAnswer

# The fields of an answer that a column may give; those of a store's own table of responses have the same names.
FIELDS = (
    "id",
    "answer",
    "dataset",
    "condition",
    "tokens",
    "prompt_tokens",
    "finish_reason",
    "error",
)
# Another usual name of an id, where the spec names no column.
STORED_ID = "sample_id"
# Far above any answer, in characters; memory is bounded by it.
MOST_CHARACTERS = 2**22
MOST_TOKENS = 2**31 - 1
MOST_REASON = 40
MOST_ERROR = 300
MOST_NAMED = 12
FOR_A_DOCUMENT = "write each answer as an object on a line of its own"
HINTS = {"csv": ", or name what separates fields (`delimiter`)"}
NULL = "the answer is null"
EMPTY = "the answer is empty"


@dataclass(frozen=True, kw_only=True)
class AnswerColumns:
    """Which column gives which field of an answer, and what rows that lack one are taken to say."""

    given: Mapping[str, str] = field(default_factory=dict)
    condition: Condition
    dataset: str | None = None

    def make(self, fields: Mapping[str, Any], *, place: str) -> GivenAnswer:
        """Make the answer of a row; raises `RowError` for one without an id, an answer or a usable number.

        A row with an error may lack every other column but the id.
        """
        error = self._read_error(fields)
        self._refuse_absent(fields, ("id",) if error is not None else self.given)
        text, fault = self._read_answer(fields, error)
        condition = self._read_text(fields, "condition") or self.condition
        if condition not in get_args(Condition):
            raise RowError(
                f"the condition {show_value(condition)} is none of {', '.join(get_args(Condition))}"
            )
        reason = self._read_text(fields, "finish_reason")
        return GivenAnswer(
            place=place,
            sample_id=self._read_id(fields),
            dataset=self._read_dataset(fields),
            condition=condition,
            text=text,
            fault=fault,
            tokens=self._read_count(fields, "tokens"),
            prompt_tokens=self._read_count(fields, "prompt_tokens"),
            finish_reason=None if reason is None else cut(reason, MOST_REASON),
        )

    def _name(self, field_name: str) -> str:
        return self.given.get(field_name, field_name)

    def _find(self, fields: Mapping[str, Any], field_name: str) -> Any:
        return find_field(fields, self._name(field_name))

    def _refuse_absent(self, fields: Mapping[str, Any], names: Iterable[str]) -> None:
        for name in names:
            # Where a nested error would lie is there only if something went wrong.
            optional = name == "error" and self._has_nested_error()
            if name in self.given and not optional and self._find(fields, name) is ABSENT:
                raise RowError(self._explain_absent(fields, name))

    def _has_nested_error(self) -> bool:
        return "." in self._name("error")

    def _read_dataset(self, fields: Mapping[str, Any]) -> str | None:
        """Read the data set: the stated one is that of all rows, unless a column is named for it."""
        if self.dataset is not None and "dataset" not in self.given:
            return self.dataset
        return self._read_text(fields, "dataset") or self.dataset

    def _read_error(self, fields: Mapping[str, Any]) -> str | None:
        """Read why there is no answer, of an object its `message`; None where nothing went wrong."""
        found = self._find(fields, "error")
        if self._has_nested_error() and (found is ABSENT or found is None):
            # Of a request that got no response, batch files have the error beside it.
            found = find_field(fields, "error")
        if found is False or found == {}:
            return None
        if isinstance(found, Mapping):
            message = found.get("message")
            return show(message, most=MOST_ERROR) if isinstance(message, str) else show_value(found)
        said = self._read_text(fields, "error")
        return None if said is None else show(said, most=MOST_ERROR)

    def _read_id(self, fields: Mapping[str, Any]) -> str:
        found = self._find(fields, "id")
        if found is ABSENT:
            found = find_field(fields, STORED_ID)
        if found is ABSENT:
            raise RowError(self._explain_absent(fields, "id"))
        name = self._name("id")
        return get_id({name: write_plainly(found, name)}, name)

    def _read_answer(self, fields: Mapping[str, Any], error: str | None) -> tuple[str, str]:
        """Read the text and why it cannot be used: a sample without an answer goes to quarantine with this reason."""
        found = self._find(fields, "answer")
        if error is not None:
            return "", f"error: {error}"
        if found is ABSENT:
            raise RowError(self._explain_absent(fields, "answer"))
        fault = _find_fault(found)
        return ("", fault) if fault else (found, "")

    def _read_text(self, fields: Mapping[str, Any], field_name: str) -> str | None:
        found, name = self._find(fields, field_name), self._name(field_name)
        if found is ABSENT or found is None:
            return None
        plain = write_plainly(found, name)
        return None if plain is None else get_text({name: plain}, name).strip() or None

    def _read_count(self, fields: Mapping[str, Any], field_name: str) -> int | None:
        text = self._read_text(fields, field_name)
        if text is None:
            return None
        if not (text.isascii() and text.isdecimal()) or int(text) > MOST_TOKENS:
            raise RowError(f"field {self._name(field_name)!r} is {show_value(text)}, no number of tokens")
        return int(text)

    def _explain_absent(self, fields: Mapping[str, Any], field_name: str) -> str:
        paths = list(list_paths(fields))
        listed = ", ".join(show(one, most=40) for one in paths[:MOST_NAMED]) or "none"
        more = f" and {len(paths) - MOST_NAMED} more" if len(paths) > MOST_NAMED else ""
        name = show_value(self._name(field_name))
        return f"no field {name}; its fields are {listed}{more}; write `columns: {{{field_name}: NAME}}`, or correct it"


def read_rows(
    path: Path,
    columns: AnswerColumns,
    *,
    kind: Literal["jsonl", "csv", "parquet"],
    delimiter: str | None,
    where: str,
) -> Iterator[GivenAnswer]:
    """Stream the answers of a file of rows; raises `UserError` with the line of one that cannot be used."""
    word = "row" if kind == "parquet" else "line"
    for record in _open(path, kind, delimiter, where):
        place = f"{word} {record.line}"
        if isinstance(record, Rejected):
            raise UserError(f"{where}: {place}: {record.reason}; correct the {word}{HINTS.get(kind, '')}.")
        fields = _null_empty(record) if kind == "csv" else record.fields
        yield make_answer(columns, fields, place=place, where=where)


def make_answer(columns: AnswerColumns, fields: Mapping[str, Any], *, place: str, where: str) -> GivenAnswer:
    """Make an answer of a row's fields; raises `UserError` that names the row."""
    try:
        return columns.make(fields, place=place)
    except RowError as error:
        raise UserError(f"{where}: {place}: {error}.") from None


def _find_fault(found: object) -> str:
    """Say why a text cannot be used as an answer; '' if it can."""
    if not isinstance(found, str):
        return NULL if found is None else f"the answer is {name_type(found)}, not text"
    if len(found) > MOST_CHARACTERS:
        return f"the answer has {len(found):,} characters, and at most {MOST_CHARACTERS:,} are read"
    if not is_storable(found):
        return "the answer holds a NUL character or is not valid UTF-8"
    return "" if found.strip() else EMPTY


def _open(
    path: Path, kind: Literal["jsonl", "csv", "parquet"], delimiter: str | None, where: str
) -> Iterable[Record | Rejected]:
    try:
        if kind == "jsonl":
            yield from read_objects(path, dataset="", for_a_document=FOR_A_DOCUMENT)
        elif kind == "csv":
            yield from read_table(path, dataset="", delimiter=delimiter)
        else:
            yield from read_shards([path], iterate_rows, lambda *_: None)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _null_empty(record: Record) -> Mapping[str, Any]:
    """An empty cell says nothing, but an empty answer is one that is empty."""
    return {name: text if text.strip() else None for name, text in record.fields.items()}
