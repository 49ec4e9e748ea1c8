"""The store as databases: all of it, or what one run used, opened once and again when a run or a manifest is added."""

from __future__ import annotations

from dataclasses import dataclass
from threading import Lock

import duckdb

from flows.sql.query import explain_missing
from storage.sql.database import connect, find_missing_keys
from storage.store import Store

# Databases that are kept open.
MOST_OPEN = 4


@dataclass(frozen=True, kw_only=True)
class _Opened:
    connection: duckdb.DuckDBPyConnection
    # The sizes of the store's records when it was opened.
    records: dict[str, int]
    warning: str


@dataclass(frozen=True, kw_only=True)
class Scope:
    """A connection of its own to all of a store or to what a run used, and a warning if part of that is missing.

    The `database` that it is a cursor on stays open as long as something refers to it.
    """

    connection: duckdb.DuckDBPyConnection
    database: duckdb.DuckDBPyConnection
    warning: str


class Databases:
    """Opens scopes of one store; safe to use from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened: dict[str | None, _Opened] = {}
        self._lock = Lock()

    def open_scope(self, run: str | None) -> Scope:
        """Open a scope; raises `StoreError` if there is no such store or run.

        Its temporary tables and settings are its own. Close its connection after use.
        """
        with self._lock:
            records = {
                path: size
                for folder in ("manifests", "runs")
                for path, size in self._store.files.sizes(folder).items()
            }
            opened = self._opened.pop(run, None)
            if opened is None or opened.records != records:
                opened = self._open(run, records)
            # The one used last is at the end.
            self._opened[run] = opened
            for oldest in [*self._opened][:-MOST_OPEN]:
                # To close it would close the cursors on it.
                self._opened.pop(oldest)
            database = opened.connection
            return Scope(connection=database.cursor(), database=database, warning=opened.warning)

    def _open(self, run: str | None, records: dict[str, int]) -> _Opened:
        connection = connect(self._store.url, run=run)
        missing = [] if run is None else find_missing_keys(self._store.url, run)
        return _Opened(
            connection=connection,
            records=records,
            warning="" if run is None or not missing else explain_missing(missing, run),
        )
