"""Work of the database in a thread of its own, so that it shows how far it is and Ctrl-C stops it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import duckdb
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

# Seconds before a query counts as slow, and between two looks at it.
PATIENCE = 1.0
GLANCE = 0.1

T = TypeVar("T")


class Watch:
    """Runs pieces of work on one connection, one after the other, under one progress bar."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, worker: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._worker = worker
        self._console = Console(stderr=True)
        self._since = time.monotonic()

    def run(self, work: Callable[[], T]) -> T:
        """Do the work and give its result; KeyboardInterrupt once it has stopped, if a person interrupts."""
        future = self._worker.submit(work)
        try:
            while not _is_done(future):
                # A bar is for people to see, and not while rows appear on the same screen.
                if self._console.is_terminal and time.monotonic() - self._since > PATIENCE:
                    self._show(future)
            return future.result()
        except KeyboardInterrupt:
            self._connection.interrupt()
            _wait(future)
            raise

    def rest(self) -> None:
        """Start the clock anew: what follows is not slow yet."""
        self._since = time.monotonic()

    def _show(self, future: Future[T]) -> None:
        columns = (TextColumn("asking"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self._console, transient=True) as progress:
            bar = progress.add_task("asking", total=None)
            while not _is_done(future):
                done = self._connection.query_progress()
                # DuckDB says −1 where it cannot tell.
                if done >= 0:
                    progress.update(bar, total=100, completed=done)


@contextmanager
def watching(connection: duckdb.DuckDBPyConnection) -> Iterator[Watch]:
    """Watch over the work of a connection within a `with` block."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sql") as worker:
        yield Watch(connection, worker)


def _wait(future: Future[T]) -> None:
    # The connection must not be closed under the work's feet; what became of it no longer matters.
    try:
        with contextlib.suppress(Exception):
            future.result()
    except KeyboardInterrupt:
        # A decomposition by NumPy does not hear the first time.
        os._exit(130)


def _is_done(future: Future[T]) -> bool:
    with contextlib.suppress(TimeoutError):
        future.exception(timeout=GLANCE)
    return future.done()
