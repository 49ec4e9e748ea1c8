"""Progress of stages: a bar in a terminal, or a line when a stage ends, plus a follower such as Prefect's artifact."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

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


class Follower(Protocol):
    """Shows the progress of one stage outside the terminal."""

    def update(self, percent: float) -> None:
        """Receive the stage's progress; called often."""

    def finish(self, percent: float) -> None:
        """Receive the stage's final progress."""


class NoFollower:
    """Shows nothing."""

    def update(self, percent: float) -> None:
        """Do nothing."""

    def finish(self, percent: float) -> None:
        """Do nothing."""


# Makes the follower of a stage by its name.
Follow = Callable[[str], Follower]


def follow_nothing(_name: str) -> Follower:
    """Make a follower that shows nothing."""
    return NoFollower()


class Bar:
    """One stage's progress bar and its follower; the total may still grow."""

    def __init__(self, *, progress: Progress, task: TaskID, follower: Follower) -> None:
        self._progress = progress
        self._task = task
        self._follower = follower
        self._total = 0
        self._done = 0

    def expect(self, rows: int) -> None:
        """Add rows to the total."""
        self._total += rows
        self._progress.update(self._task, total=self._total)

    def advance(self, rows: int) -> None:
        """Add finished rows."""
        self._done += rows
        self._progress.advance(self._task, rows)
        self._follower.update(self._percent())

    def finish(self) -> int:
        """Show all rows as finished, quarantined ones too; returns their number."""
        self._done = self._total
        self._progress.update(self._task, completed=self._total)
        self._follower.finish(self._percent())
        return self._total

    def _percent(self) -> float:
        return 100.0 * min(self._done, self._total) / max(self._total, 1)


class Bars:
    """Progress bars of a run on stderr, one per stage; without a terminal, a line when a stage ends."""

    def __init__(self, console: Console, follow: Follow) -> None:
        self._console = console
        self._follow = follow
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
        """Start a bar."""
        task = self.progress.add_task(name, total=0)
        return Bar(progress=self.progress, task=task, follower=self._follow(name))

    def finish(self, name: str, bar: Bar, *, jobs: int, reused: int) -> None:
        """Fill a bar; without a terminal, print a line instead."""
        rows = bar.finish()
        if not self._console.is_terminal:
            self._print_line(f"{name}: {rows} rows in {jobs} jobs, {reused} of them reused")

    def _print_line(self, line: str) -> None:
        self._console.print(line)


class TentativeBars(Bars):
    """Bars that are erased if the body raises."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, follow_nothing)
        self._lines: list[str] = []

    def keep(self) -> None:
        """Print the withheld lines."""
        for line in self._lines:
            self._console.print(line)

    def withdraw(self) -> None:
        """Erase the bars from the terminal."""
        self.progress.live.transient = True

    def _print_line(self, line: str) -> None:
        self._lines.append(line)


@contextmanager
def draw_bars(follow: Follow) -> Iterator[Bars]:
    """Show the bars while the body runs."""
    bars = Bars(Console(stderr=True), follow)
    with bars.progress:
        yield bars


@contextmanager
def draw_tentative_bars() -> Iterator[Bars]:
    """Show the bars while the body runs, and erase them if it raises."""
    bars = TentativeBars(Console(stderr=True))
    with bars.progress:
        try:
            yield bars
        except BaseException:
            bars.withdraw()
            raise
    bars.keep()
