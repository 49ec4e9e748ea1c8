"""Figures as Markdown tables that fit a terminal."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from speed_timing import Timing

Reached = Literal["yes", "no", "not measured"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A variant: median seconds, their spread, the ratio to the figure's base, and how its result compares."""

    name: str
    seconds: float | None
    spread: float | None = None
    ratio: float | None = None
    limit: float | None = None
    result: str = ""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal of the figure: what it says, the figure that was reached, and whether that meets it."""

    name: str
    goal: str
    figure: str
    reached: Reached


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A table of variants, with what was measured above it and what is to be known below."""

    title: str
    about: str
    rows: Sequence[Row]
    goals: Sequence[Goal] = ()
    notes: Sequence[str] = ()
    # What --profile runs.
    profiled: Callable[[], Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.title,
            "about": self.about,
            "rows": [asdict(row) for row in self.rows],
            "goals": [asdict(goal) for goal in self.goals],
            "notes": list(self.notes),
        }


def make_rows(
    timings: Mapping[str, Timing], *, base: str, limit: float | None, results: Mapping[str, str]
) -> list[Row]:
    """A row a variant; `base` is the one with ratio 1, `limit` the seconds that the hardware needs at least."""
    return [
        Row(
            name=name,
            seconds=timing.median,
            spread=timing.spread,
            ratio=timing.median / timings[base].median,
            limit=None if limit is None else limit / timing.median,
            result=results.get(name, ""),
        )
        for name, timing in timings.items()
    ]


def at_most(name: str, figure: float, goal: float, *, right: bool) -> Goal:
    """A goal that is met from below, by a right result alone."""
    return Goal(
        name=name,
        goal=f"≤ {goal:g}",
        figure=f"{figure:.2f}",
        reached="yes" if figure <= goal and right else "no",
    )


def at_least(name: str, figure: float, goal: float, *, right: bool) -> Goal:
    """A goal that is met from above, by a right result alone."""
    return Goal(
        name=name,
        goal=f"≥ {goal:g}×",
        figure=f"{figure:.2f}×",
        reached="yes" if figure >= goal and right else "no",
    )


def show_figure(figure: Figure) -> str:
    """A figure's title, table and notes."""
    parts = [f"### {figure.title}", "", figure.about, "", table(as_cells(figure), right=range(1, 5))]
    if figure.notes:
        parts += ["", *(f"* {note}" for note in figure.notes)]
    return "\n".join(parts)


def as_cells(figure: Figure) -> list[list[str]]:
    """The cells of a figure's table, its head first."""
    cells = [["variant", "seconds", "±", "ratio", "of the limit", "result"]]
    for row in figure.rows:
        if row.seconds is None:
            cells.append([row.name, "not measured", "", "", "", row.result])
            continue
        cells.append(
            [
                row.name,
                f"{row.seconds:.3f}" if row.seconds < 1 else f"{row.seconds:.2f}",
                "" if row.spread is None else f"{row.spread:.0%}",
                "" if row.ratio is None else f"{row.ratio:.3f}" if row.ratio < 2 else f"{row.ratio:.1f}",
                "" if row.limit is None else f"{row.limit:.0%}",
                row.result,
            ]
        )
    return cells


def show_goals(figures: Sequence[Figure]) -> str:
    """All goals, each with what was reached."""
    return table(goal_cells(figures), right=(1, 2))


def goal_cells(figures: Sequence[Figure]) -> list[list[str]]:
    """The cells of the table of goals, its head first."""
    head = ["figure", "goal", "reached", "met"]
    return [
        head,
        *([goal.name, goal.goal, goal.figure, goal.reached] for one in figures for goal in one.goals),
    ]


def table(cells: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Markdown with its columns in line; the first row is the head."""
    wide = [max(_width(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        [_pad(cell, wide[column], right=column in right) for column, cell in enumerate(row)] for row in cells
    ]
    rule = [
        "-" * (wide[column] - 1) + ":" if column in right else "-" * wide[column]
        for column in range(len(wide))
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))


def _width(text: str) -> int:
    return sum(0 if unicodedata.combining(letter) else 1 for letter in text)


def _pad(text: str, width: int, *, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space
