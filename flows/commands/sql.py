"""`cmrm sql`: a query over a store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from flows.store_commands import DEFAULT_STORE

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
    store: Annotated[str, Parameter(env_var="CMRM_STORE")] = DEFAULT_STORE,
    run: str | None = None,
    strict: bool = False,
    format: Literal["table", "csv", "json", "parquet", "markdown"] | None = None,  # noqa: A002
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Ask the store in SQL (DuckDB, read-only). Without a query: its views, their columns, and the macros.

    Parameters
    ----------
    query
        The query, such as "SELECT condition, count(*) FROM responses GROUP BY ALL"; `-` reads it from standard
        input.
    file
        A file that holds the query.
    store
        The store to ask: a folder or an fsspec URL.
    run
        Show only what this run used; `latest` for the newest finished one. If some of that is gone, a line says so.
    strict
        End with status 1, after the answer, where something that the run used is gone.
    format
        How to write the rows: a table shows the first thousand, the others have all. Without it what the output's
        name says, else a table.
    output
        A file to write the rows to; one that is there is replaced.
    """
    from flows.query import ask, warn_of_missing

    ask(query, file=file, store=store, run=run, format=format, output=output)
    if run is not None and warn_of_missing(store, run) and strict:
        sys.exit(INCOMPLETE)
