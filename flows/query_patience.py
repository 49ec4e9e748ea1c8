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

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, worker: ThreadPoolExecutor, console: Console
    ) -> None:
        self._connection = connection
        self._worker = worker
        self._since = time.monotonic()
        columns = (TextColumn("asking"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=console, transient=True)
        self._bar = self._progress.add_task("asking", total=None)
        self._is_hidden = not console.is_terminal

    def run(self, work: Callable[[], T]) -> T:
        """Do the work and give its result; KeyboardInterrupt once it has stopped, if a person interrupts."""
        future = self._worker.submit(work)
        try:
            while not _is_done(future):
                self._show()
            self._show()
            return future.result()
        except KeyboardInterrupt:
            self.hide()
            self._connection.interrupt()
            _wait(future)
            raise

    def hide(self) -> None:
        """Take the bar away for good, as before something else is printed."""
        # Rich ends even a bar that was never shown with an empty line.
        if self._progress.live.is_started:
            self._progress.stop()
        self._is_hidden = True

    def _show(self) -> None:
        if self._is_hidden or time.monotonic() - self._since < PATIENCE:
            return
        self._progress.start()
        done = self._connection.query_progress()
        # DuckDB says −1 where it cannot tell.
        if done >= 0:
            self._progress.update(self._bar, total=100, completed=done)


@contextmanager
def watching(connection: duckdb.DuckDBPyConnection, console: Console) -> Iterator[Watch]:
    """Watch over the work of a connection within a `with` block; the bar is shown if the console is a terminal."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sql") as worker:
        watch = Watch(connection, worker, console)
        try:
            yield watch
        finally:
            watch.hide()


def _wait(future: Future[T]) -> None:
    # The connection must not be closed under the work's feet; what became of it no longer matters.
    try:
        with contextlib.suppress(Exception):
            future.result()
    except KeyboardInterrupt:
        # A decomposition by NumPy does not hear the first time.
        os.write(2, b"cmrm: the query was stopped.\n")
        os._exit(130)


def _is_done(future: Future[T]) -> bool:
    with contextlib.suppress(TimeoutError):
        future.exception(timeout=GLANCE)
    return future.done()
