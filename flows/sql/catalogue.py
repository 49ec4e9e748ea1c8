"""Catalogue of SQL views with their columns, and of the macros."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb
from rich.console import Console
from rich.text import Text

from flows.terminal.table import TableColumn, make_table
from storage.sql.macros import MACROS
from storage.sql.views import LOADED
from storage.tables.schemas import KINDS

if TYPE_CHECKING:
    from rich.table import Table

_COLUMNS = """
SELECT v.view_name, v.comment, list({name: c.column_name, kind: c.data_type, comment: c.comment} ORDER BY column_index)
FROM duckdb_views() v JOIN duckdb_columns() c ON c.table_oid = v.view_oid AND c.schema_name = v.schema_name
WHERE NOT v.internal AND v.schema_name = 'main'
GROUP BY ALL
"""


@dataclass(frozen=True, kw_only=True)
class ViewColumn:
    """One column of a view: its name, its SQL type and its comment."""

    name: str
    kind: str
    comment: str


@dataclass(frozen=True, kw_only=True)
class View:
    """One view of a store, with its comment and its columns in order."""

    name: str
    comment: str
    columns: tuple[ViewColumn, ...]


def read_views(connection: duckdb.DuckDBPyConnection) -> list[View]:
    """Read every view with its columns, in the order in which people are shown them."""
    found = {view: rest for view, *rest in connection.execute(_COLUMNS).fetchall()}
    return [
        View(
            name=name,
            comment=found[name][0],
            columns=tuple(
                ViewColumn(name=one["name"], kind=_shorten(one["kind"]), comment=one["comment"])
                for one in found[name][1]
            ),
        )
        for name in (*KINDS, *LOADED)
    ]


def print_catalogue(connection: duckdb.DuckDBPyConnection) -> None:
    """Print every view with its columns and every macro, with their comments."""
    console = Console()
    for view in read_views(connection):
        console.print(Text.assemble((view.name, "bold"), "  ", view.comment))
        grid = _make_grid()
        for column in view.columns:
            grid.add_row("", Text(column.name), Text(column.kind, style="dim"), Text(column.comment))
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
    return make_table([TableColumn(width=2), *(TableColumn() for _ in range(3))])


def _shorten(kind: str) -> str:
    return {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}.get(kind, kind)
