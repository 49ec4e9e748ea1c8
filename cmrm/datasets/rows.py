"""Stream rows of JSONL files; a damaged row is rejected (quarantine) with its line, and reading continues."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from cmrm.datasets.compressed import open_data
from cmrm.datasets.fields import RowError, clean, cut, name_type
from cmrm.errors import UserError
from cmrm.prompts.sample import Rejected, Sample
from cmrm.untrusted.redaction import hide_credentials

# Far above any sample; bounds memory for a file without line ends.
MAX_LINE_BYTES = 16 * 2**20

RAW_CHARACTERS = 500
# A reason may quote an image name that is in fact a base64 image.
REASON_CHARACTERS = 500
# Of a row, so much is searched for URLs with a secret; less of it is stored.
_SCRUBBED = 16 * RAW_CHARACTERS

FOR_A_DOCUMENT = "write `format: json` for rows of your own, or give the file as it was published"


@dataclass(frozen=True, kw_only=True)
class Record:
    """A parsed row: its fields, its first line and, where lines do not identify rows, its `place` in the document."""

    line: int
    fields: Mapping[str, Any]
    raw: str
    place: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a file with its end, numbered from 1; of one longer than `MAX_LINE_BYTES`, the beginning."""

    number: int
    text: str
    truncated: bool


def read_objects(
    path: Path, *, dataset: str, for_a_document: str = FOR_A_DOCUMENT
) -> Iterator[Record | Rejected]:
    """Read a JSONL file, one JSON object a line; blank lines, a byte order mark and CRLF are accepted.

    `for_a_document` says what to do with a file that is one JSON document. Raises `UserError` for such a file (one JSON
    array or one indented object), and if it cannot be opened.
    """
    first = True
    for line in read_lines(path):
        number, text = line.number, line.text
        if not text.strip() and not line.truncated:
            continue
        if first and (text.lstrip().startswith("[") or text.strip() == "{"):
            raise UserError(f"{path} is one JSON document, not JSONL (one object a line); {for_a_document}.")
        first = False
        try:
            refuse_a_long_line(line)
            yield Record(line=number, fields=_parse_object(text), raw=text)
        except RowError as error:
            yield reject(dataset=dataset, line=number, reason=str(error), raw=text)


def make_samples(
    records: Iterable[Record | Rejected],
    make: Callable[[Record], Sample],
    *,
    dataset: str,
    id_field: str | None = None,
) -> Iterator[Sample | Rejected]:
    """Convert records to samples; a record for which `make` raises `RowError` is rejected."""
    for record in records:
        if isinstance(record, Rejected):
            yield record
            continue
        try:
            yield make(record)
        except RowError as error:
            known = record.fields.get(id_field) if id_field else None
            yield reject(
                dataset=dataset,
                line=record.line,
                reason=f"{record.place}: {error}" if record.place else str(error),
                raw=record.raw,
                identity=str(known) if isinstance(known, str | int) else None,
            )


def reject(*, dataset: str, line: int, reason: str, raw: str, identity: str | None = None) -> Rejected:
    """Make the quarantine record of a rejected row, truncated and cleaned so that any store can hold it."""
    return Rejected(
        dataset=dataset,
        line=line,
        id=None if identity is None else clean(identity)[:RAW_CHARACTERS],
        reason=cut(hide_credentials(clean(reason[:_SCRUBBED])), REASON_CHARACTERS),
        raw=hide_credentials(clean(raw.strip()[:_SCRUBBED]))[:RAW_CHARACTERS],
    )


def read_lines(path: Path) -> Iterator[Line]:
    """Stream the lines of a file, decoded as UTF-8; invalid bytes become surrogates.

    Raises `UserError` if the file cannot be opened, is UTF-16, or is compressed without a matching suffix.
    """
    with open_data(path) as file:
        for number, (line, truncated) in enumerate(_split(file), start=1):
            content = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            yield Line(number=number, text=content.decode("utf-8", "surrogateescape"), truncated=truncated)


def refuse_a_long_line(line: Line) -> None:
    """Raise `RowError` if the line was truncated, since what is left of it would be another row."""
    if line.truncated:
        raise RowError(
            f"the line is longer than {MAX_LINE_BYTES:,} bytes, the most that is read of one; shorten it, or put its "
            "image into a file and name that"
        )


def _split(file: IO[bytes]) -> Iterator[tuple[bytes, bool]]:
    while line := file.readline(MAX_LINE_BYTES):
        end, truncated = line, False
        while len(end) == MAX_LINE_BYTES and not end.endswith(b"\n"):
            end = file.readline(MAX_LINE_BYTES)
            # The line's end alone may be left.
            truncated = truncated or bool(end.strip(b"\r\n"))
        yield line, truncated


def _parse_object(text: str) -> Mapping[str, Any]:
    try:
        row = _decode(text)
    except RowError:
        raise
    except (ValueError, RecursionError) as error:
        raise RowError(f"not valid JSON: {error}") from None
    if not isinstance(row, dict):
        raise RowError(f"{name_type(row)} where a JSON object was expected")
    return row


def find_repeated_key(pairs: Sequence[tuple[str, Any]]) -> str | None:
    """Find a duplicate key of a JSON object, of which one value would be lost, or return None."""
    if len(dict(pairs)) == len(pairs):
        return None
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            return key
        seen.add(key)
    return None


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if (key := find_repeated_key(pairs)) is not None:
        raise RowError(f"key {cut(key)!r} stands there twice; keep one")
    return dict(pairs)


_decode = json.JSONDecoder(object_pairs_hook=_make_object).decode
