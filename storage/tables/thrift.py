"""Read and write Thrift's compact protocol, in which a Parquet file has its page headers and its footer.

Source: https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

# The types that Parquet uses, as numbered in a field's header; a boolean has its value in its type. They are plain
# integers, since a footer has some ten thousand fields and enums compare ten times slower.
TRUE, FALSE, BYTE, I16, I32, I64, BINARY, LIST, STRUCT = 1, 2, 3, 4, 5, 6, 8, 9, 12


class Items(NamedTuple):
    """The elements of a list, all of one type."""

    type: int
    values: list[Any]


# A field's number, with the type and the value of the field: an int, a bool, bytes, `Items`, or a struct, which may be
# given as it is written.
Struct = dict[int, tuple[int, Any]]
# By the number of a field, what is kept of each element of its list.
Each = Mapping[int, Callable[[Struct], Any]]


def read_struct(data: bytes, each: Each = MappingProxyType({})) -> Struct:
    """Read a struct; `each` says what is kept of the structs of a long list, which are many objects if kept whole.

    Raises ValueError for types that Parquet does not use, IndexError for a truncated struct.
    """
    return _read_fields(data, 0, each)[0]


def read_first_struct(data: bytes) -> tuple[Struct, int]:
    """Read the struct with which the data begins, as `read_struct` does; return it and its size in bytes."""
    return _read_fields(data, 0)


def write_struct(fields: Struct) -> bytes:
    """Write a struct, its fields in the order of the mapping, which must be ascending."""
    out = bytearray()
    _write_fields(out, fields)
    return bytes(out)


def write_varint(out: bytearray, number: int) -> None:
    """Append an unsigned integer, seven bits a byte, the lowest first (ULEB128)."""
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)


def _read_fields(data: bytes, place: int, each: Each = MappingProxyType({})) -> tuple[Struct, int]:
    fields: Struct = {}
    number = 0
    while head := data[place]:
        place += 1
        if step := head >> 4:
            number += step
        else:
            zigzag, place = _read_varint(data, place)
            number = zigzag >> 1
        kind = head & 15
        if number in each:
            value, place = _read_items(data, place, each[number])
        else:
            value, place = _read_value(data, place, kind)
        fields[number] = (kind, value)
    return fields, place + 1


def _read_value(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    if I16 <= kind <= I64:
        zigzag, place = _read_varint(data, place)
        return (zigzag >> 1) ^ -(zigzag & 1), place
    if kind == BINARY:
        size, place = _read_varint(data, place)
        return data[place : place + size], place + size
    if kind == STRUCT:
        return _read_fields(data, place)
    if kind == LIST:
        return _read_items(data, place, None)
    if kind <= FALSE:
        return kind == TRUE, place
    if kind == BYTE:
        return data[place], place + 1
    raise ValueError(f"Parquet uses no type {kind} of Thrift")


def _read_items(data: bytes, place: int, keep: Callable[[Struct], Any] | None) -> tuple[Items, int]:
    size, kind = data[place] >> 4, data[place] & 15
    place += 1
    if size == 15:
        size, place = _read_varint(data, place)
    values = []
    for _ in range(size):
        value, place = _read_value(data, place, kind)
        values.append(value if keep is None else keep(value))
    return Items(kind, values), place


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    number = data[place]
    place += 1
    if number < 128:
        return number, place
    number &= 127
    shift = 7
    while True:
        byte = data[place]
        place += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, place
        shift += 7


def _write_fields(out: bytearray, fields: Struct) -> None:
    last = 0
    for number, (kind, value) in fields.items():
        if number - last < 16:
            out.append((number - last) << 4 | kind)
        else:
            out.append(kind)
            write_varint(out, number << 1)
        last = number
        _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if I16 <= kind <= I64:
        write_varint(out, value << 1 if value >= 0 else (-value << 1) - 1)
    elif kind == BINARY:
        write_varint(out, len(value))
        out += value
    elif kind == STRUCT and isinstance(value, bytes):
        out += value
    elif kind == STRUCT:
        _write_fields(out, value)
    elif kind == LIST:
        inner, values = value
        out.append(min(len(values), 15) << 4 | inner)
        if len(values) >= 15:
            write_varint(out, len(values))
        for one in values:
            _write_value(out, inner, one)
    elif kind == BYTE:
        out.append(value)
