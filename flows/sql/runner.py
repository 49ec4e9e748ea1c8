"""Run DuckDB queries in a thread, so that a progress bar is shown and Ctrl-C interrupts them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import duckdb
from rich.console import Console

if TYPE_CHECKING:
    from rich.progress import Progress

# Seconds before the progress bar is shown, and between two polls of the query.
PATIENCE = 1.0
POLL_SECONDS = 0.1

T = TypeVar("T")


class QueryRunner:
    """Runs work on one connection in a thread, under one progress bar."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, worker: ThreadPoolExecutor, console: Console
    ) -> None:
        self._connection = connection
        self._worker = worker
        self._since = time.monotonic()
        self._console = console
        self._progress: Progress | None = None
        self._is_hidden = not console.is_terminal

    def run(self, work: Callable[[], T]) -> T:
        """Run `work` and return its result; on Ctrl-C, interrupt it, wait, and raise KeyboardInterrupt."""
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
        """Remove the bar for good, before other output."""
        if self._progress is not None:
            self._progress.stop()
        self._is_hidden = True

    def _show(self) -> None:
        if self._is_hidden or time.monotonic() - self._since < PATIENCE:
            return
        if self._progress is None:
            self._progress = _start_bar(self._console, since=self._since)
        done = self._connection.query_progress()
        # DuckDB returns −1 if progress is unknown.
        if done >= 0:
            self._progress.update(self._progress.task_ids[0], total=100, completed=done)


@contextmanager
def show_progress(connection: duckdb.DuckDBPyConnection, console: Console) -> Iterator[QueryRunner]:
    """Run work on a connection in the body, with a progress bar if the console is a terminal."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="sql") as worker:
        runner = QueryRunner(connection, worker, console)
        try:
            yield runner
        finally:
            runner.hide()


def _start_bar(console: Console, *, since: float) -> Progress:
    # Imported here, since most queries end before a bar is shown.
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (TextColumn("asking"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    progress.add_task("asking", total=None)
    progress.tasks[0].start_time = since
    progress.start()
    return progress


def _wait(future: Future[T]) -> None:
    # The connection must not be closed while the work uses it; its result no longer matters.
    try:
        with contextlib.suppress(Exception):
            future.result()
    except KeyboardInterrupt:
        # On a second Ctrl-C exit at once: a NumPy decomposition cannot be interrupted.
        os.write(2, b"cmrm: the query was stopped.\n")
        os._exit(130)


def _is_done(future: Future[T]) -> bool:
    with contextlib.suppress(TimeoutError):
        future.exception(timeout=POLL_SECONDS)
    return future.done()
