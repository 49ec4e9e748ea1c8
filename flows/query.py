"""SQL from the command line: a query over a store, its result as a table."""

from __future__ import annotations

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cmrm.errors import UserError
from storage.catalog import connect

# A terminal is no place for a million rows; a query says so itself with LIMIT.
MAX_ROWS = 1000


def print_query(query: str, *, store: str, run: str | None) -> None:
    """Run a query and print its rows; `UserError` with DuckDB's own words for a query that it refuses."""
    with connect(store, run=run) as connection:
        try:
            cursor = connection.execute(query)
            names = [column[0] for column in cursor.description or ()]
            rows = cursor.fetchmany(MAX_ROWS + 1)
        except duckdb.Error as error:
            raise UserError(f"the query was refused: {_explain(error)}") from None
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name in names:
        grid.add_column(Text(_show(name)), overflow="fold")
    for row in rows[:MAX_ROWS]:
        grid.add_row(*(Text(_show(value)) for value in row))
    console = Console()
    if names:
        console.print(grid)
    if len(rows) > MAX_ROWS:
        console.print(f"… only the first {MAX_ROWS} rows are shown; narrow the query or add LIMIT.")


def _explain(error: duckdb.Error) -> str:
    """DuckDB's words, without the Python traceback that it quotes when the store's own file system refused."""
    text = str(error)
    return text.strip().splitlines()[-1] if "Traceback" in text else text


def _show(value: object) -> str:
    """A value as text, long lists shortened, that no terminal takes for a command."""
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list) and len(value) > 8:
        return f"[{', '.join(_show(one) for one in value[:4])}, … {len(value)} values]"
    text = str(value)
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )
