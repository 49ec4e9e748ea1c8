"""Tables in memory: built from rows, checked against their kind, and named as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from storage.errors import StoreError
from storage.paths import check_key, partition
from storage.schemas import KINDS, SINGLE_VECTOR, Kind


def kind_of(name: str) -> Kind:
    """Look up a kind of table; raises StoreError, listing the known ones, for any other name."""
    if name not in KINDS:
        raise StoreError(f"there is no table {name!r}: choose one of {', '.join(KINDS)}")
    return KINDS[name]


def from_rows(rows: Sequence[Mapping[str, Any]], kind: str) -> pa.Table:
    """Build a table from mappings; columns that are left out are null where that is allowed.

    Raises StoreError, naming the column and the row, for unknown columns and values that do not fit.
    """
    schema = kind_of(kind).schema
    for place, row in enumerate(rows):
        if unknown := row.keys() - set(schema.names):
            raise StoreError(
                f"row {place} of {kind} has unknown columns {sorted(unknown)}: drop or rename them"
            )
    return pa.Table.from_arrays([_array(field, rows, kind) for field in schema], schema=schema)


def conform(table: pa.Table, kind: str) -> pa.Table:
    """Give a table the columns, order and types of its kind; vectors may be float16 or float32.

    Raises StoreError for unknown or missing columns, nulls where none may be, and values that do not fit.
    """
    schema = kind_of(kind).schema
    if unknown := set(table.column_names) - set(schema.names):
        raise StoreError(f"this table of {kind} has unknown columns {sorted(unknown)}: drop or rename them")
    return pa.Table.from_arrays(
        [_conformed(table, field, kind) for field in schema],
        schema=pa.schema([_as_stored(table, field) for field in schema]),
    )


def table_path(kind: str, key: str, **partitions: str) -> str:
    """Name the file of a table in the store, as in hidden_states/model=m/condition=image/<key>.parquet.

    Raises StoreError unless just the kind's partition columns are given.
    """
    names = kind_of(kind).partitions
    if set(partitions) != set(names):
        raise StoreError(f"a file of {kind} lies in folders for {list(names)}, not for {sorted(partitions)}")
    folders = [partition(name, partitions[name]) for name in names]
    return "/".join([kind, *folders, f"{check_key(key)}.parquet"])


def _array(field: pa.Field, rows: Sequence[Mapping[str, Any]], kind: str) -> pa.Array:
    values = [row.get(field.name) for row in rows]
    if not field.nullable and None in values:
        raise StoreError(f"row {values.index(None)} of {kind} has no {field.name}: every row needs one")
    try:
        return pa.array(values, field.type)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError) as error:
        place = next((i for i, value in enumerate(values) if not _fits(value, field.type)), 0)
        raise StoreError(
            f"row {place} of {kind} has {field.name} = {ascii(values[place])[:80]}, which is no {field.type}: {error}"
        ) from error


def _fits(value: Any, kind: pa.DataType) -> bool:
    try:
        pa.array([value], kind)
    except (pa.ArrowException, UnicodeError, TypeError, ValueError, OverflowError):
        return False
    return True


def _as_stored(table: pa.Table, field: pa.Field) -> pa.Field:
    if not pa.types.is_list(field.type) or field.name not in table.column_names:
        return field
    given = table.schema.field(field.name).type
    single = hasattr(given, "value_type") and given.value_type != pa.float16()
    return field.with_type(SINGLE_VECTOR) if single else field


def _conformed(table: pa.Table, field: pa.Field, kind: str) -> pa.ChunkedArray | pa.Array:
    if field.name not in table.column_names:
        if not field.nullable:
            raise StoreError(f"this table of {kind} lacks the column {field.name}: every row needs one")
        return pa.nulls(table.num_rows, field.type)
    column = table[field.name]
    if column.null_count and not field.nullable:
        raise StoreError(f"{column.null_count} rows of {kind} have no {field.name}: every row needs one")
    stored = _as_stored(table, field).type
    try:
        return column if column.type.equals(stored) else column.cast(stored)
    except pa.ArrowException as error:
        raise StoreError(
            f"the column {field.name} of {kind} is {column.type}, not {stored}: {error}"
        ) from error


def table_paths(kind: str, key: str, count: int, **partitions: str) -> list[str]:
    """Name so many files of one table, as in responses/<key>.parquet, responses/<key>.1.parquet."""
    first = table_path(kind, key, **partitions)
    stem = first.removesuffix(".parquet")
    return [first, *(f"{stem}.{number}.parquet" for number in range(1, count))]
