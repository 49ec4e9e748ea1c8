"""Times in nanoseconds, which Python's types cannot hold: as microseconds where that is exact, else as text.

pyarrow makes pandas' types of them, raises where pandas is missing, and so reads one file in two ways.
"""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa


def replace_nanoseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Return a batch without types of nanoseconds, nested ones included.

    A text is what `str` makes of the time as Python's type, with nine digits where there are nanoseconds; inside lists
    and objects, with nine digits for each time of the column. Durations lose their nanoseconds.
    """
    given = batch.columns
    columns = [_replace(column) for column in given]
    if all(new is old for new, old in zip(columns, given, strict=True)):
        return batch
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _replace(column: pa.Array) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        # Its values are few, and to_pylist decodes them in any case.
        return (
            _replace(column.dictionary_decode()) if _coarsen(kind.value_type) != kind.value_type else column
        )
    coarse = _coarsen(kind)
    if coarse == kind:
        return column
    if pa.types.is_duration(kind):
        return column.cast(coarse, safe=False)
    try:
        return column.cast(coarse)
    except pa.ArrowInvalid:
        written = column.cast(_write_as_text(kind))
        return written if pa.types.is_nested(kind) else _shorten(written)


def _coarsen(kind: pa.DataType) -> pa.DataType:
    """Replace nanoseconds by microseconds in a type."""
    if pa.types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if pa.types.is_time64(kind) and kind.unit == "ns":
        return pa.time64("us")
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    return _map_inside(kind, _coarsen)


def _write_as_text(kind: pa.DataType) -> pa.DataType:
    """Replace nanoseconds by text in a type."""
    if _coarsen(kind) != kind and not pa.types.is_nested(kind):
        return pa.string()
    return _map_inside(kind, _write_as_text)


def _map_inside(kind: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Change the types inside a nested one."""
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(change(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(change(kind.key_type), change(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(change(kind.value_type)))
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(change(kind.value_type)))
    return kind


def _shorten(texts: pa.Array) -> pa.Array:
    """Write times as Python does: no fraction of zeros, six digits where they suffice, offsets as +01:00."""
    # Imported late, since it takes a tenth of a second and few files hold such times.
    import pyarrow.compute as pc

    for pattern, replacement in (
        (r"\.0{9}", ""),
        (r"(\.\d{6})000", r"\1"),
        (r"Z$", "+00:00"),
        (r"([+-]\d\d)(\d\d)$", r"\1:\2"),
    ):
        texts = pc.replace_substring_regex(texts, pattern, replacement)
    return texts
