"""Run a SQL query over a store, and print or export its rows."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa
from rich.console import Console

from cmrm.errors import UserError
from cmrm.untrusted.regular_file import decode_text
from flows.spec.text_files import read_text
from flows.sql.catalogue import print_catalogue
from flows.sql.errors import explain_refusal
from flows.sql.export import FORMATS, SUFFIXES, open_output, write_rows
from flows.sql.grid import print_grid, take_rows
from flows.sql.runner import QueryRunner, show_progress
from storage.sql.database import connect, find_missing_keys

# Rows per Arrow batch; a row may hold a vector of thousands of numbers.
BATCH = 2048
MOST_BYTES = 16 * 2**20
_WRITERS = {duckdb.StatementType.COPY, duckdb.StatementType.EXPORT}

T = TypeVar("T")


def ask(
    query: str | None,
    *,
    file: Path | None,
    store: str,
    run: str | None,
    format: str | None,  # noqa: A002 - named as its option
    output: Path | None,
) -> None:
    """Run a query and print or export its rows; without a query, print the catalogue of views and macros.

    Raises `UserError` for a query that DuckDB rejects, with the position in the query, and for conflicting options.
    """
    text = _read_query(query, file)
    chosen = _choose_format(format, output)
    with connect(store, run=run) as connection:
        if text is None:
            if format is not None or output is not None:
                raise UserError("there is no query: give one, or -f FILE, or - for standard input")
            print_catalogue(connection)
            return
        try:
            with show_progress(connection, _choose_console(chosen, output)) as runner:
                batches = _Batches(connection, text, runner)
                with open_output(output) as stream:
                    if chosen == "table":
                        rows = take_rows(batches)
                        runner.hide()
                        print_grid(rows, batches.schema, stream)
                    else:
                        write_rows(batches, batches.schema, stream, chosen)
        except KeyboardInterrupt:
            Console(stderr=True).print("cmrm: the query was stopped.")
            sys.exit(130)


def warn_of_missing(store: str, run: str) -> list[str]:
    """Warn on stderr about keys of a run that are missing from the store, and return them."""
    missing = find_missing_keys(store, run)
    if missing:
        named = ", ".join(key[:12] for key in missing[:3]) + (", …" if len(missing) > 3 else "")
        Console(stderr=True).print(
            f"cmrm: rows are missing: of the keys of run {run}, {len(missing)} are missing or damaged ({named}). "
            "Run its spec again to recompute them.",
            soft_wrap=True,
            highlight=False,
        )
    return missing


class _Batches(Iterator[pa.RecordBatch]):
    """Arrow batches of a query's last statement; earlier statements are run first."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, query: str, runner: QueryRunner) -> None:
        self._connection = connection
        self._runner = runner
        # Lines of the query above the current statement.
        self._above = 0
        self._reader: pa.RecordBatchReader = self._run(lambda: self._start(query))
        self.schema = self._reader.schema

    def __next__(self) -> pa.RecordBatch:
        batch = self._run(lambda: next(self._reader, None))
        if batch is None:
            raise StopIteration
        return batch

    def _run(self, work: Callable[[], T]) -> T:
        try:
            return self._runner.run(work)
        except duckdb.Error as error:
            raise UserError(f"the query was refused: {explain_refusal(error, above=self._above)}") from None

    def _start(self, query: str) -> pa.RecordBatchReader:
        statements = [*_split(self._connection, query)]
        for self._above, text in statements[:-1]:
            self._connection.execute(text).fetchall()
        self._above, text = statements[-1]
        try:
            relation = self._connection.sql(text)
        except duckdb.Error as error:
            if "LINE " not in str(error):
                # execute() reports the position of the error; nothing runs, since the statement is rejected.
                self._connection.execute(text)
            raise
        return relation.to_arrow_reader(BATCH)


def _split(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[tuple[int, str]]:
    """Split a query into statements with the number of lines above each; DuckDB misplaces its caret after blanks."""
    statements = connection.extract_statements(query)
    if not statements:
        raise UserError("the query is empty: write a SELECT")
    # Comments and newlines before the first statement are not part of it.
    start = query.rfind("".join(statement.query for statement in statements))
    above = query[: max(start, 0)].count("\n")
    for statement in statements:
        if statement.type in _WRITERS:
            raise UserError(
                "SQL is read-only here: leave out COPY or EXPORT, and write the result with -o FILE"
            )
        text = statement.query.lstrip()
        yield above + statement.query.removesuffix(text).count("\n"), text
        above += statement.query.count("\n")


def _read_query(query: str | None, file: Path | None) -> str | None:
    if query is not None and file is not None:
        raise UserError("there are two queries: give one, or -f FILE, not both")
    if query == "-":
        file = Path("-")
    if file is not None:
        return read_text(file, most=MOST_BYTES)
    if query is not None:
        # Bytes of an argument that are not UTF-8 arrive as surrogates.
        decode_text(os.fsencode(query), where="the query")
    return query


def _choose_format(format: str | None, output: Path | None) -> str:  # noqa: A002 - named as its option
    if format is None and output is not None:
        format = SUFFIXES.get(output.suffix.lower())  # noqa: A001 - as above
        if format is None:
            raise UserError(
                f"-o {output}: the name does not say which format; end it in {', '.join(SUFFIXES)}, or add --format"
            )
    if format == "parquet" and output is None and sys.stdout.isatty():
        raise UserError("--format parquet is not for a terminal: add -o FILE, or pipe it on")
    return format or FORMATS[0]


def _choose_console(format: str, output: Path | None) -> Console:  # noqa: A002 - named as its option
    """Choose the console of the progress bar: none while rows are printed to the same terminal."""
    if format != FORMATS[0] and output is None and sys.stdout.isatty():
        return Console(file=io.StringIO())
    return Console(stderr=True)
