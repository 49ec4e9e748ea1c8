"""`cmrm sql`: query a store in SQL."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.commands.store_place import DEFAULT_STORE, StorePlace

INCOMPLETE = 1


def _refuse_unknown_option(_: Any, query: str | None) -> None:
    if query is not None and query != "-" and query.startswith("-") and not any(map(str.isspace, query)):
        raise ValueError(f"There is no option {query}; cmrm sql --help lists them.")


def sql(
    query: Annotated[
        # A query may start with a comment, and - is standard input.
        str | None, Parameter(allow_leading_hyphen=True, validator=_refuse_unknown_option)
    ] = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(alias="-f")] = None,
    store: StorePlace = DEFAULT_STORE,
    run: str | None = None,
    strict: bool = False,
    format: Literal["table", "csv", "json", "parquet", "markdown"] | None = None,  # noqa: A002
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Query a store with read-only SQL (DuckDB).

    Without a query, list the views with their columns, and the macros.

    Parameters
    ----------
    query
        The query, such as "SELECT condition, count(*) FROM responses GROUP BY ALL", or `-` for standard input.
    file
        Read the query from this file.
    store
        The store: a folder or an fsspec URL.
    run
        Restrict the views to what this run used; `latest` is the newest finished run. Warns if part of it is missing.
    strict
        With --run: exit with status 1, after the result, if part of what the run used is missing.
    format
        Output format. A table is limited to 1,000 rows, the others are complete. Default: the format of the
        output file's suffix, else a table.
    output
        Write the rows to this file, replacing it if it exists.
    """
    from flows.sql.query import ask, warn_of_missing

    ask(query, file=file, store=store, run=run, format=format, output=output)
    if run is not None and warn_of_missing(store, run) and strict:
        sys.exit(INCOMPLETE)
