"""What there is to ask: the views of a store with their columns, and the macros."""

from __future__ import annotations

import duckdb
from rich.console import Console
from rich.table import Table
from rich.text import Text

from storage.macros import MACROS
from storage.schemas import KINDS
from storage.views import LOADED

_COLUMNS = """
SELECT v.view_name, v.comment, list({name: c.column_name, kind: c.data_type, comment: c.comment} ORDER BY column_index)
FROM duckdb_views() v JOIN duckdb_columns() c ON c.table_oid = v.view_oid AND c.schema_name = v.schema_name
WHERE NOT v.internal AND v.schema_name = 'main'
GROUP BY ALL
"""


def print_catalogue(connection: duckdb.DuckDBPyConnection) -> None:
    """Print every view with its columns and every macro, each with what it means."""
    console = Console()
    views = {view: rest for view, *rest in connection.execute(_COLUMNS).fetchall()}
    for view in (*KINDS, *LOADED):
        comment, columns = views[view]
        console.print(Text.assemble((view, "bold"), "  ", comment))
        grid = _make_grid()
        for column in columns:
            grid.add_row(
                "", Text(column["name"]), Text(_shorten(column["kind"]), style="dim"), Text(column["comment"])
            )
        console.print(grid)
        console.print()
    console.print(Text("Macros", style="bold"))
    grid = _make_grid()
    for macro in MACROS:
        grid.add_row("", Text(macro.call), Text(""), Text(macro.comment))
    console.print(grid)
    console.print()
    console.print(
        Text("cmrm sql 'SELECT condition, count(*) FROM responses GROUP BY ALL'; more in docs/sql.md.")
    )


def _make_grid() -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(width=2)
    for _ in range(3):
        grid.add_column(overflow="fold")
    return grid


def _shorten(kind: str) -> str:
    return {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}.get(kind, kind)
