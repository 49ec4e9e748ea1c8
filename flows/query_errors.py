"""What DuckDB says of a query that it refuses, with its mark under the right place."""

from __future__ import annotations

import re

import duckdb
from rich.cells import cell_len

from flows.terminal import show_safely

_MARK = re.compile(r"^(?P<line>LINE (?P<number>\d+): .*)\n(?P<space> *)(?P<mark>\^+)$", re.MULTILINE)


def explain_refusal(error: duckdb.Error, *, above: int = 0) -> str:
    """DuckDB's words, safe for a terminal, without the traceback that it quotes where Python code failed.

    Its line numbers are raised by the number of lines `above` the statement.
    """
    words = str(error).strip()
    if "Traceback" in words:
        words = words.splitlines()[-1]
    elif "Python exception occurred" in words:
        words = words.rpartition("Error: ")[2]
    return show_safely(_MARK.sub(lambda found: _align(found, above), words))


def _align(found: re.Match[str], above: int) -> str:
    """The line and its mark again, the mark moved by what escapes make longer."""
    line, start, end = found["line"], len(found["space"]), len(found["space"]) + len(found["mark"])
    # DuckDB counts columns of a screen, on which control characters take none.
    before = line[: _find(line, start)]
    marked = line[len(before) : _find(line, end)]
    mark = "^" * max(1, cell_len(show_safely(marked)))
    before, line = (
        text.replace(found["number"], str(int(found["number"]) + above), 1) for text in (before, line)
    )
    return f"{line}\n{' ' * cell_len(show_safely(before))}{mark}"


def _find(line: str, column: int) -> int:
    """The last place in a line with at most so many columns before it."""
    places = range(len(line), -1, -1)
    return next(place for place in places if cell_len(line[:place]) <= column)
