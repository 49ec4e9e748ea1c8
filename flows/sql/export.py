"""Export the rows of a query to a file or stream as CSV, JSON, Markdown or Parquet, in constant memory."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, TypeAlias

import pyarrow as pa

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from flows.report.writers.markdown import escape
from flows.sql.values import is_number, to_json, to_texts
from flows.terminal.safe_text import show_safely

FORMATS = ("table", "csv", "json", "parquet", "markdown")
SUFFIXES = MappingProxyType(
    {
        ".csv": "csv",
        ".json": "json",
        ".parquet": "parquet",
        ".md": "markdown",
        ".markdown": "markdown",
        ".txt": "table",
    }
)
# Size of a Parquet row group: rows, or bytes if rows are wide.
_ROW_GROUP = 65_536
_GROUP_BYTES = 64 << 20
_PIECE_BYTES = 1 << 20
# Control characters that JSON does not escape but a terminal may interpret.
_UNSEEN = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")

Batches: TypeAlias = Iterable[pa.RecordBatch]


def write_rows(batches: Batches, schema: pa.Schema, stream: IO[bytes], format: str) -> None:  # noqa: A002
    """Write all rows in one of the FORMATS except table. On a terminal, control characters are escaped."""
    check_names(schema.names, format)
    if format == "parquet":
        _write_parquet(batches, schema, stream)
        return
    shown: Callable[[str], str] = show_safely if stream.isatty() else str
    lines = {"csv": _csv, "json": _json, "markdown": _markdown}[format](batches, schema)
    for line in lines:
        stream.write((shown(line) + "\n").encode("utf-8"))
    stream.flush()


@contextmanager
def open_output(output: Path | None) -> Iterator[IO[bytes]]:
    """Open standard output, or a file that is renamed to its name only when complete.

    Raises `UserError` if it cannot be written. A closed pipe, as by head, is no error.
    """
    if output is None:
        sys.stdout.flush()
        try:
            yield sys.stdout.buffer
            sys.stdout.flush()
        except BrokenPipeError:
            # Otherwise Python reports the broken pipe again when it closes stdout at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    with _explained(output):
        if output.exists() and not output.is_file():
            # A device or a pipe cannot be replaced; opening a folder raises.
            with output.open("wb") as stream:
                yield stream
            return
        handle, name = tempfile.mkstemp(prefix=f".{output.name[:100]}.", dir=output.parent)
        unfinished = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
            unfinished.chmod(_mode(output))
            unfinished.replace(output)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise


@contextmanager
def _explained(output: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{output}: cannot be written ({error.strerror or error})") from None


def check_columns(schema: pa.Schema, format: str) -> None:  # noqa: A002
    """Raise `UserError` for columns that a format cannot hold or tell apart."""
    check_names(schema.names, format)
    if format == "parquet":
        _write_parquet((), schema, io.BytesIO())


def check_names(names: Sequence[str], format: str) -> None:  # noqa: A002
    """Raise `UserError` for columns of one name where a format cannot tell them apart."""
    if format in {"json", "parquet"} and len(set(names)) < len(names):
        name, _ = Counter(names).most_common(1)[0]
        raise UserError(
            f"two columns are named {show_value(name)}, which {format} cannot tell apart: rename one with AS"
        )


def _mode(output: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return output.stat().st_mode & 0o777
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def _csv(batches: Batches, schema: pa.Schema) -> Iterator[str]:
    yield ",".join(map(_quote, schema.names))
    for row in _rows(batches, to_texts):
        yield ",".join("" if value is None else _quote(value) for value in row)


def _rows(
    batches: Batches, convert: Callable[[pa.Array], list[str | None]]
) -> Iterator[tuple[str | None, ...]]:
    for batch in batches:
        # A number takes twenty times its size as a Python string, so wide rows are converted a few at a time.
        step = max(1, _PIECE_BYTES * batch.num_rows // max(1, batch.nbytes))
        for start in range(0, batch.num_rows, step):
            piece = batch.slice(start, step)
            yield from zip(*(convert(column) for column in piece.columns), strict=True)


def _quote(text: str) -> str:
    """Quote a CSV value; empty text is quoted to tell it from null."""
    if text and not any(letter in text for letter in '",\r\n'):
        return text
    return '"' + text.replace('"', '""') + '"'


def _json(batches: Batches, schema: pa.Schema) -> Iterator[str]:
    names = [json.dumps(name, ensure_ascii=False) for name in schema.names]
    yield "["
    waiting = None
    for row in _rows(batches, to_json):
        if waiting is not None:
            yield f"{waiting},"
        fields = ", ".join(f"{name}: {value or 'null'}" for name, value in zip(names, row, strict=True))
        waiting = _UNSEEN.sub(_escape_letter, f"{{{fields}}}")
    if waiting is not None:
        yield waiting
    yield "]"


def _escape_letter(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def _markdown(batches: Batches, schema: pa.Schema) -> Iterator[str]:
    yield f"| {' | '.join(map(escape, schema.names))} |"
    yield f"| {' | '.join('---:' if is_number(field.type) else '---' for field in schema)} |"
    for row in _rows(batches, to_texts):
        yield f"| {' | '.join('NULL' if value is None else escape(value) for value in row)} |"


def _write_parquet(batches: Batches, schema: pa.Schema, stream: IO[bytes]) -> None:
    try:
        _write_row_groups(batches, schema, stream)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise UserError(f"Parquet has no such type ({error}): cast the column to VARCHAR") from None


def _write_row_groups(batches: Batches, schema: pa.Schema, stream: IO[bytes]) -> None:
    # Imported late, as the other formats do without.
    import pyarrow.parquet as pq

    waiting: list[pa.RecordBatch] = []
    rows = size = 0
    # The smallest and largest number of a column leave NaN out, and DuckDB would filter NaN by them.
    exact = [
        field.name
        for field in schema
        if not (pa.types.is_floating(field.type) or pa.types.is_nested(field.type))
    ]
    with pq.ParquetWriter(stream, schema, compression="zstd", write_statistics=exact) as writer:
        for batch in batches:
            waiting.append(batch)
            rows, size = rows + batch.num_rows, size + batch.nbytes
            if rows >= _ROW_GROUP or size >= _GROUP_BYTES:
                writer.write_table(pa.Table.from_batches(waiting, schema))
                waiting, rows, size = [], 0, 0
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema))
