"""How far a stage is: a bar in the terminal, or a line when a stage ends, and whatever else follows it."""

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
    """Follows one stage elsewhere than in the terminal."""

    def update(self, percent: float) -> None:
        """Take note of how far the stage is; called often."""

    def finish(self, percent: float) -> None:
        """Take note of how far the stage was when its jobs ended."""


class NoFollower:
    """Follows nothing."""

    def update(self, percent: float) -> None:
        """Pass over it."""

    def finish(self, percent: float) -> None:
        """Pass over it."""


# Makes the follower of a stage of this name.
Follow = Callable[[str], Follower]


def follow_nothing(_name: str) -> Follower:
    """Let nothing but the terminal show how far a stage is."""
    return NoFollower()


class Bar:
    """One stage's bar and its follower; the total may still grow."""

    def __init__(self, *, progress: Progress, task: TaskID, follower: Follower) -> None:
        self._progress = progress
        self._task = task
        self._follower = follower
        self._total = 0
        self._done = 0

    def expect(self, rows: int) -> None:
        """Count on so many more rows."""
        self._total += rows
        self._progress.update(self._task, total=self._total)

    def advance(self, rows: int) -> None:
        """Add rows that are finished."""
        self._done += rows
        self._progress.advance(self._task, rows)
        self._follower.update(self._percent())

    def finish(self) -> int:
        """Show that all rows are finished, quarantined ones too; returns how many they are."""
        self._done = self._total
        self._progress.update(self._task, completed=self._total)
        self._follower.finish(self._percent())
        return self._total

    def _percent(self) -> float:
        return 100.0 * min(self._done, self._total) / max(self._total, 1)


class Bars:
    """The bars of a run, one a stage, on standard error; without a terminal, a line when a stage ends."""

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
        """Draw a bar."""
        task = self.progress.add_task(name, total=0)
        return Bar(progress=self.progress, task=task, follower=self._follow(name))

    def finish(self, name: str, bar: Bar, *, jobs: int, reused: int) -> None:
        """Fill a bar, and say so where no bar is seen."""
        rows = bar.finish()
        if not self._console.is_terminal:
            self._say(f"{name}: {rows} rows in {jobs} jobs, {reused} of them reused")

    def _say(self, line: str) -> None:
        self._console.print(line)


class TentativeBars(Bars):
    """Bars that are shown for good only if the body that they belong to ends without an exception."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, follow_nothing)
        self._lines: list[str] = []

    def keep(self) -> None:
        """Print what was held back."""
        for line in self._lines:
            self._console.print(line)

    def withdraw(self) -> None:
        """Leave nothing of the bars on the terminal."""
        self.progress.live.transient = True

    def _say(self, line: str) -> None:
        self._lines.append(line)


@contextmanager
def draw_bars(follow: Follow) -> Iterator[Bars]:
    """Show the bars while the body runs."""
    bars = Bars(Console(stderr=True), follow)
    with bars.progress:
        yield bars


@contextmanager
def draw_tentative_bars() -> Iterator[Bars]:
    """Show the bars while the body runs, and take them back if it raises."""
    bars = TentativeBars(Console(stderr=True))
    with bars.progress:
        try:
            yield bars
        except BaseException:
            bars.withdraw()
            raise
    bars.keep()
