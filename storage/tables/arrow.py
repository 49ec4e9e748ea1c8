"""Arrow tables: build them from rows, check them against their kind's schema, name their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from storage.errors import StoreError
from storage.records.layout import check_key, partition
from storage.tables.schemas import KINDS, SINGLE_VECTOR, Kind, is_vector

# What Arrow raises for values of the wrong type.
FAULTS = (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError)
# Arrow counts the numbers in a list column by 32-bit offsets.
_LONGEST = 2**31 - 1


def kind_of(name: str) -> Kind:
    """Look up a kind of table; raises StoreError, listing the known ones, for any other name."""
    if name not in KINDS:
        raise StoreError(f"there is no table {name!r}: choose one of {', '.join(KINDS)}")
    return KINDS[name]


def from_rows(rows: Sequence[Mapping[str, Any]], kind: str, *, first: int = 0) -> pa.Table:
    """Build a table from mappings, which messages number from `first`; missing columns are null if nullable.

    Raises StoreError, naming the column and the row, for unknown columns, values of the wrong type, numbers that are
    not finite in the column's precision, and nulls inside vectors.
    """
    schema = kind_of(kind).schema
    for place, row in enumerate(rows):
        if unknown := row.keys() - set(schema.names):
            raise StoreError(
                f"{_name_row(rows, place, kind, first)} has unknown columns {sorted(unknown)}: drop or rename them"
            )
    return pa.Table.from_arrays([_array(field, rows, kind, first) for field in schema], schema=schema)


def conform(table: pa.Table, kind: str) -> pa.Table:
    """Cast a table to the columns, order and types of its kind; vectors may be float16 or float32.

    Raises StoreError for unknown or missing columns, disallowed nulls, and values out of range.
    """
    schema = kind_of(kind).schema
    if unknown := set(table.column_names) - set(schema.names):
        raise StoreError(f"this table of {kind} has unknown columns {sorted(unknown)}: drop or rename them")
    return pa.Table.from_arrays(
        [_conformed(table, field, kind) for field in schema],
        schema=pa.schema([_as_stored(table, field) for field in schema]),
    )


def list_vectors(vectors: np.ndarray, kind: pa.DataType) -> pa.ChunkedArray:
    """Make a column of vectors, contiguous [rows, width], whose memory it shares."""
    width = vectors.shape[1]
    most = _LONGEST // max(1, width)
    arrays = []
    for start in range(0, len(vectors), most):
        piece = vectors[start : start + most]
        offsets = np.arange(len(piece) + 1, dtype=np.int32) * np.int32(width)
        arrays.append(pa.ListArray.from_arrays(pa.array(offsets), pa.array(piece.reshape(-1)), type=kind))
    return pa.chunked_array(arrays, kind)


def table_path(kind: str, key: str, **partitions: str) -> str:
    """The path of a table's file, such as hidden_states/model=m/condition=image/<key>.parquet.

    Raises StoreError unless exactly the kind's partition columns are given.
    """
    names = kind_of(kind).partitions
    if set(partitions) != set(names):
        raise StoreError(f"a file of {kind} lies in folders for {list(names)}, not for {sorted(partitions)}")
    folders = [partition(name, partitions[name]) for name in names]
    return "/".join([kind, *folders, f"{check_key(key)}.parquet"])


def _array(field: pa.Field, rows: Sequence[Mapping[str, Any]], kind: str, first: int) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    missing = [place for place, value in enumerate(values) if value is None]
    if missing and not field.nullable:
        raise StoreError(
            f"{_name_row(rows, missing[0], kind, first)} has no {field.name}: every row needs one"
        )
    try:
        array = pa.array(values, field.type)
    except FAULTS as error:
        place = next((i for i, value in enumerate(values) if not _fits(value, field.type)), 0)
        raise StoreError(
            f"{_name_row(rows, place, kind, first)} has {field.name} = {_show(values[place])}, which is no "
            f"{field.type}: {error}"
        ) from error
    if not _is_sound(array):
        place = next(i for i, value in enumerate(values) if not _is_sound(pa.array([value], field.type)))
        wrong = "holds a null or a number that is not" if pa.types.is_list(field.type) else "is not"
        raise StoreError(
            f"{_name_row(rows, place, kind, first)} has {field.name} = {_show(values[place])}, which {wrong} finite in "
            f"{field.type}: leave out what was not measured"
        )
    return array


def _name_row(rows: Sequence[Mapping[str, Any]], place: int, kind: str, first: int) -> str:
    """Name a row by its index, counted from `first`, and by its sample if it has one."""
    sample = rows[place].get("sample_id")
    return f"row {first + place} of {kind}{'' if sample is None else f' (sample {ascii(sample)[:80]})'}"


def _show(value: Any) -> str:
    return ascii(value)[:80]


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except FAULTS:
        return False
    return True


def _is_sound(array: pa.Array) -> bool:
    """Whether all numbers are finite and no vector contains a null; a whole row may be null."""
    if pa.types.is_list(array.type):
        elements = array.flatten()
        return not elements.null_count and _is_sound(elements)
    if not pa.types.is_floating(array.type):
        return True
    # Imported late, here and below: it takes as long as the rest of Arrow, and a run that reuses all casts nothing.
    import pyarrow.compute as pc

    return bool(pc.all(pc.is_finite(array)).as_py() in (None, True))


def _as_stored(table: pa.Table, field: pa.Field) -> pa.Field:
    if not is_vector(field.type) or field.name not in table.column_names:
        return field
    given = table.schema.field(field.name).type
    single = hasattr(given, "value_type") and given.value_type != pa.float16()
    return field.with_type(SINGLE_VECTOR) if single else field


def _conformed(table: pa.Table, field: pa.Field, kind: str) -> pa.ChunkedArray | pa.Array:
    import pyarrow.compute as pc

    if field.name not in table.column_names:
        if not field.nullable:
            raise StoreError(f"this table of {kind} lacks the column {field.name}: every row needs one")
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    if column.null_count and not field.nullable:
        raise StoreError(f"{column.null_count} rows of {kind} have no {field.name}: every row needs one")
    if pa.types.is_list(column.type) and (gaps := pc.list_flatten(column).null_count):
        raise StoreError(
            f"the column {field.name} of {kind} has {gaps} nulls inside its vectors: a vector has no gaps"
        )
    stored = _as_stored(table, field).type
    if column.type.equals(stored):
        return column
    try:
        cast = column.cast(stored)
    except pa.ArrowException as error:
        raise StoreError(
            f"the column {field.name} of {kind} is {column.type}, not {stored}: {error}"
        ) from error
    # Arrow silently casts numbers too large for a narrower type to infinity.
    if lost := _count_infinite(cast) - _count_infinite(column):
        raise StoreError(
            f"the column {field.name} of {kind} has {lost} numbers that are too large for {stored}"
        )
    return cast


def _count_infinite(column: pa.ChunkedArray) -> int:
    import pyarrow.compute as pc

    numbers = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    if not pa.types.is_floating(numbers.type):
        return 0
    return int(pc.sum(pc.is_inf(numbers)).as_py() or 0)


def table_paths(kind: str, key: str, count: int, **partitions: str) -> list[str]:
    """The paths of a table's `count` files: responses/<key>.parquet, responses/<key>.1.parquet."""
    first = table_path(kind, key, **partitions)
    stem = first.removesuffix(".parquet")
    return [first, *(f"{stem}.{number}.parquet" for number in range(1, count))]
