"""Columns of a result as the points of a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from flows.sql.values import is_number, to_texts
from flows.terminal.safe_text import show_safely
from flows.view.results import Result

# More points say no more on a screen, and take long to draw.
MOST_POINTS = 5_000
MOST_LETTERS = 120
# The last millisecond from 1970 on, and the first before, that is a time in a browser; infinity is beyond.
LAST_TIME = 8_640_000_000_000_000


def read_points(result: Result, *, x: int, y: int, by: int | None) -> dict[str, Any]:
    """Read three columns, by their places, of the first rows of a result, without rows whose x or y cannot be drawn.

    `kind` says what x is: number, time (in milliseconds since 1970, UTC) or text. Raises `UserError` if y holds no
    numbers, or if there is no such column.
    """
    names = result.start().names
    chosen = [x, y] if by is None else [x, y, by]
    if any(not 0 <= place < len(names) for place in chosen):
        raise UserError(f"the chart asks for a column that is not there: the result has {len(names)}")
    table = result.read(0, MOST_POINTS + 1)
    columns = [table.column(place).combine_chunks() for place in chosen]
    if not is_number(columns[1].type) and not pa.types.is_boolean(columns[1].type):
        raise UserError(f"{show_value(names[y])} holds no numbers: choose another column for y")
    shown = [column.slice(0, MOST_POINTS) for column in columns]
    groups = [""] * len(shown[0]) if by is None else _read_texts(shown[2])
    kind, places = _read_places(shown[0])
    points = zip(places, _read_numbers(shown[1]), groups, strict=True)
    return {
        "kind": kind,
        "points": [point for point in points if None not in point[:2]],
        "more": table.num_rows > MOST_POINTS,
        "most": MOST_POINTS,
    }


def _read_places(column: pa.Array) -> tuple[str, Sequence[float | str | None]]:
    if is_number(column.type):
        return "number", _read_numbers(column)
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        # Of a time without a zone the numbers are as if it were UTC.
        times = column.cast(pa.timestamp("ms"), safe=False).cast(pa.int64()).to_pylist()
        return "time", [None if time is None or abs(time) > LAST_TIME else time for time in times]
    return "text", _read_texts(column)


def _read_numbers(column: pa.Array) -> list[float | None]:
    numbers = [None if value is None else float(value) for value in column.to_pylist()]
    return [None if value is None or not math.isfinite(value) else value for value in numbers]


def _read_texts(column: pa.Array) -> list[str]:
    return ["NULL" if text is None else show_safely(text)[:MOST_LETTERS] for text in to_texts(column)]
