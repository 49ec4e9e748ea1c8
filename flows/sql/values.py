"""Format Arrow columns as text, as JSON, or as shortened table cells."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa

from flows.terminal.safe_text import show_safely

# Longer lists are shortened to this many values.
_LONG_LIST = 8
_SHOWN_OF_LIST = 4
# Cells of text have at most one character more, which tells whoever shows them that there are more.
MAX_CELL_TEXT = 2000
_NOT_JSON = {"nan", "inf", "-inf"}


def is_number(kind: pa.DataType) -> bool:
    """Whether a column holds numbers, which are right-aligned."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def to_texts(column: pa.Array) -> list[str | None]:
    """Format values as text: lists and structs as JSON, bytes as hexadecimal, null as None."""
    kind = column.type
    if pa.types.is_interval(kind):
        return [None if value is None else _show_interval(value) for value in column.to_pylist()]
    if pa.types.is_integer(kind):
        return [None if value is None else str(value) for value in column.to_pylist()]
    if is_number(kind) or pa.types.is_temporal(kind) or pa.types.is_boolean(kind):
        return list(column.cast(pa.string()).to_pylist())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return [None if value is None else value.hex() for value in column.to_pylist()]
    if _is_list(kind) or pa.types.is_struct(kind) or pa.types.is_map(kind):
        return to_json(column)
    return [None if value is None else str(value) for value in column.to_pylist()]


def to_json(column: pa.Array) -> list[str | None]:
    """Format values as JSON, null as None; NaN and infinities, which JSON lacks, as null."""
    kind = column.type
    if is_number(kind) or pa.types.is_boolean(kind):
        return [None if text in _NOT_JSON else text for text in column.cast(pa.string()).to_pylist()]
    if pa.types.is_fixed_size_list(kind):
        column = column.cast(pa.list_(kind.value_type))
    if _is_list(kind):
        return _lists_to_json(column)
    if pa.types.is_struct(kind) or pa.types.is_map(kind):
        values = column.to_pylist(maps_as_pydicts="lossy")
        return [None if value is None else _dump(_plain(value)) for value in values]
    return [None if text is None else _dump(text) for text in to_texts(column)]


def to_cells(column: pa.Array) -> list[str | None]:
    """Format values as table cells: numbers to six digits, long lists and texts cut, control characters escaped."""
    if _is_list(column.type):
        return [_show_list(value) if value.is_valid else None for value in column]
    if pa.types.is_floating(column.type):
        return [None if value is None else f"{value:.6g}" for value in column.to_pylist()]
    # A text of megabytes takes seconds to escape.
    texts = (None if text is None else text[: MAX_CELL_TEXT + 1] for text in to_texts(column))
    return [None if text is None else show_safely(text) for text in texts]


def _show_interval(value: pa.MonthDayNano) -> str:
    return f"{value.months} months {value.days} days {value.nanoseconds / 1e9:g} seconds"


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _lists_to_json(column: pa.Array) -> list[str | None]:
    # Vectors have thousands of numbers: format all at once, then split them into lists.
    offsets = column.offsets.to_pylist()
    start = offsets[0] if offsets else 0
    inside = to_json(column.values.slice(start, (offsets[-1] if offsets else 0) - start))
    texts = ["null" if text is None else text for text in inside]
    spans = zip(offsets[:-1], offsets[1:], column.is_valid().to_pylist(), strict=True)
    return [
        f"[{', '.join(texts[first - start : last - start])}]" if valid else None
        for first, last, valid in spans
    ]


def _show_list(value: Any) -> str:
    items = value.values
    if len(items) <= _LONG_LIST:
        return f"[{', '.join(text or 'NULL' for text in to_cells(items))}]"
    shown = ", ".join(text or "NULL" for text in to_cells(items[:_SHOWN_OF_LIST]))
    return f"[{shown}, … {len(items)} values]"


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str, allow_nan=False)


def _plain(value: Any) -> Any:
    """Replace NaN and infinities in a nested value by null, and keys by text."""
    if isinstance(value, dict):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
