"""Format DuckDB's error messages, with the caret under the right column."""

from __future__ import annotations

import re

from rich.cells import cell_len

from flows.terminal.safe_text import show_safely

_MARK = re.compile(r"^(?P<line>LINE (?P<number>\d+): .*)\n(?P<space> *)(?P<mark>\^+)$", re.MULTILINE)


def explain_refusal(error: Exception, *, above: int = 0) -> str:
    """Format a DuckDB error for a terminal, without a quoted Python traceback.

    Line numbers are offset by the number of lines `above` the statement.
    """
    message = str(error).strip()
    if "Traceback" in message:
        message = message.splitlines()[-1]
    elif "Python exception occurred" in message:
        message = message.rpartition("Error: ")[2]
    return show_safely(_MARK.sub(lambda found: _align(found, above), message))


def _align(found: re.Match[str], above: int) -> str:
    """Format the line and its caret, moved by the length of escapes."""
    line, start, end = found["line"], len(found["space"]), len(found["space"]) + len(found["mark"])
    # DuckDB counts terminal columns, in which control characters have no width.
    before = line[: _find(line, start)]
    marked = line[len(before) : _find(line, end)]
    mark = "^" * max(1, cell_len(show_safely(marked)))
    before, line = (
        text.replace(found["number"], str(int(found["number"]) + above), 1) for text in (before, line)
    )
    return f"{line}\n{' ' * cell_len(show_safely(before))}{mark}"


def _find(line: str, column: int) -> int:
    """Find the last index of a line with at most `column` terminal columns before it."""
    indices = range(len(line), -1, -1)
    return next(index for index in indices if cell_len(line[:index]) <= column)
