"""Dotted paths to nested fields of a row, such as `metadata.category` or `conversations.0.value`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

# Marks a missing field; null is a value.
ABSENT: Final = object()

# Limits for listing paths in a message: depth, keys of a mapping, elements of a list.
MAX_DEPTH, MAX_KEYS, MAX_ELEMENTS = 4, 200, 2


def find_field(fields: Mapping[str, Any], path: str) -> Any:
    """Return the field at a dotted path, or `ABSENT`; a field whose name is the whole path takes precedence.

    An integer in a path is a list index, from 0.
    """
    if path in fields or "." not in path:
        return fields.get(path, ABSENT)
    found: Any = fields
    for step in path.split("."):
        if isinstance(found, Mapping):
            found = found.get(step, ABSENT)
        elif isinstance(found, list) and step.isascii() and step.isdigit() and len(step) < 10:
            found = found[int(step)] if int(step) < len(found) else ABSENT
        else:
            return ABSENT
    return found


def list_paths(fields: Mapping[str, Any], *, depth: int = MAX_DEPTH) -> Iterator[str]:
    """List the dotted paths of a row's fields, parents first, within the limits of a message."""
    for name in list(fields)[:MAX_KEYS]:
        yield str(name)
        if depth > 1:
            for inner in _list_inside(fields[name], depth - 1):
                yield f"{name}.{inner}"


def _list_inside(value: object, depth: int) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from list_paths(value, depth=depth)
    elif isinstance(value, list):
        # A list of texts is a value; a list of objects has nested fields.
        inner = {str(index): one for index, one in enumerate(value[:MAX_ELEMENTS])}
        if any(isinstance(one, Mapping) for one in inner.values()):
            yield from list_paths(inner, depth=depth)
