"""The rows of a query as Arrow batches, streamed, with errors that name the place in the query."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import duckdb
import pyarrow as pa

from cmrm.errors import UserError
from flows.sql.errors import explain_refusal

# Rows per Arrow batch; a row may hold a vector of thousands of numbers.
BATCH = 2048
_WRITERS = {duckdb.StatementType.COPY, duckdb.StatementType.EXPORT}

T = TypeVar("T")


class Run(Protocol):
    """Runs work on a connection and returns its result."""

    def __call__(self, work: Callable[[], T], /) -> T: ...


class Batches(Iterator[pa.RecordBatch]):
    """Arrow batches of a query's last statement; earlier statements are run first.

    `run` does each piece of work on the connection. Raises `UserError` for what DuckDB rejects, also midway.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, query: str, run: Run) -> None:
        self._connection = connection
        self._run = run
        # Lines of the query above the current statement.
        self._above = 0
        self._reader: pa.RecordBatchReader = self._explained(lambda: self._start(query))
        self.schema = self._reader.schema

    def __next__(self) -> pa.RecordBatch:
        batch = self._explained(lambda: next(self._reader, None))
        if batch is None:
            raise StopIteration
        return batch

    def _explained(self, work: Callable[[], Any]) -> Any:
        try:
            return self._run(work)
        # Arrow raises what DuckDB says midway as one of its own errors, an OSError or a ValueError.
        except (duckdb.Error, OSError, pa.ArrowException) as error:
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
