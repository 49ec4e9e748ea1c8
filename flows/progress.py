"""How far a stage is: a bar in the terminal, and a progress artifact in Prefect's interface."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.exceptions import PrefectException
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

log = logging.getLogger("cmrm.flows")

# Seconds between two calls of Prefect's API by one bar.
ARTIFACT_SECONDS = 2.0
# What an artifact that could not be written raises; none is worth a run.
ARTIFACT_ERRORS = (httpx.HTTPError, PrefectException)


class Bar:
    """One stage's bar, on the terminal and in Prefect; its total may still grow."""

    def __init__(
        self, name: str, *, progress: Progress, task: TaskID, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._name = name
        self._progress = progress
        self._task = task
        self._clock = clock
        self._total = 0
        self._done = 0
        self._shown_at = clock()
        self._artifact: UUID | None = self._create()

    def expect(self, rows: int) -> None:
        """Count on so many more rows."""
        self._total += rows
        self._progress.update(self._task, total=self._total)

    def advance(self, rows: int) -> None:
        """Tell that so many more rows are finished."""
        self._done += rows
        self._progress.advance(self._task, rows)
        if self._clock() - self._shown_at >= ARTIFACT_SECONDS:
            self._show()

    def finish(self) -> int:
        """Show that all is finished, rows that were set aside too; returns how many rows that are."""
        self._done = self._total
        self._progress.update(self._task, completed=self._total)
        self._show()
        return self._total

    def _create(self) -> UUID | None:
        try:
            created = create_progress_artifact(
                0.0, key=f"cmrm-stage-{self._name}", description=f"Rows of the stage {self._name}"
            )
        except ARTIFACT_ERRORS as error:
            log.warning("Prefect shows no progress of %s: %s", self._name, error)
            return None
        assert isinstance(created, UUID)
        return created

    def _show(self) -> None:
        self._shown_at = self._clock()
        if self._artifact is None:
            return
        share = 100.0 * min(self._done, self._total) / max(self._total, 1)
        try:
            update_progress_artifact(self._artifact, share)
        except ARTIFACT_ERRORS as error:
            log.warning("Prefect shows no progress of %s any more: %s", self._name, error)
            self._artifact = None


class Bars:
    """The bars of a run, one a stage, on standard error; without a terminal, a line when a stage ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("rows"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )

    def start(self, name: str) -> Bar:
        """Draw a bar."""
        return Bar(name, progress=self.progress, task=self.progress.add_task(name, total=0))

    def finish(self, name: str, bar: Bar, *, jobs: int, reused: int) -> None:
        """Let a bar be full, and say so where no bar is seen."""
        rows = bar.finish()
        if not self._console.is_terminal:
            self._console.print(f"{name}: {rows} rows in {jobs} jobs, {reused} of them reused")


@contextmanager
def draw_bars() -> Iterator[Bars]:
    """Show the bars while the body runs."""
    bars = Bars(Console(stderr=True))
    with bars.progress:
        yield bars
