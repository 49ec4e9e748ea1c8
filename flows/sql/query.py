"""Run a SQL query over a store, and print or export its rows."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cmrm.errors import UserError
from cmrm.untrusted.regular_file import decode_text
from flows.spec.text_files import read_text
from flows.sql.batches import Batches
from flows.sql.catalogue import print_catalogue
from flows.sql.export import FORMATS, SUFFIXES, open_output, write_rows
from flows.sql.grid import print_grid, take_rows
from flows.sql.runner import show_progress
from storage.sql.database import connect, find_missing_keys

MOST_BYTES = 16 * 2**20


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
                batches = Batches(connection, text, runner.run)
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
        Console(stderr=True).print(f"cmrm: {explain_missing(missing, run)}", soft_wrap=True, highlight=False)
    return missing


def explain_missing(missing: Sequence[str], run: str) -> str:
    """Say which keys of a run its views lack."""
    named = ", ".join(key[:12] for key in missing[:3]) + (", …" if len(missing) > 3 else "")
    return (
        f"rows are missing: of the keys of run {run}, {len(missing)} are missing or damaged ({named}). "
        "Run its spec again to recompute them."
    )


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
