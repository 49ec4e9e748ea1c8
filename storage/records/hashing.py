"""Hashing: sha256 cache keys from canonical JSON, the same on every machine and in every process."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from storage.errors import StoreError

# Raised whenever the content or layout of stored files changes its meaning.
SCHEMA_VERSION = 3

# The most common types, checked first: a call per value would take longer than serializing it.
_PLAIN = frozenset((str, bool, type(None)))

# The path of a nested value: the path of its container, and its key or index there. It is formatted only for an
# error, since formatting it for every value takes longer than serializing it.
Steps = tuple[()] | tuple["Steps", str | int]

# Above the largest finite double; larger integers are a mistake, and some JSON readers fail on them.
_LARGEST_NUMBER = 2**1024


def canonical_json(obj: Any) -> bytes:
    """Serialize a JSON value to its canonical bytes.

    Keys are sorted by code point, text is UTF-8 as given (not normalised), tuples are lists. Numbers that are
    equal are the same: 1 and 1.0, 0.0 and -0.0; True is not 1.
    Raises StoreError, naming the value's path, for NaN, infinities, keys that are not text, and other types.
    """
    try:
        plain = _plain(obj, ())
    except RecursionError as error:
        raise StoreError(
            "cannot name this content: it is nested too deeply or contains itself; pass a flatter value"
        ) from error
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode()
    except UnicodeEncodeError:
        _refuse_half_a_pair(plain, ())
        raise


def digest(obj: Any) -> str:
    """Hash a JSON value: sha256 of its canonical JSON, 64 hex digits."""
    return digest_bytes(canonical_json(obj))


def digest_bytes(data: bytes) -> str:
    """Hash bytes: sha256, 64 hex digits."""
    return hashlib.sha256(data).hexdigest()


def digest_file(path: Path) -> str:
    """Hash a file's bytes without reading them into memory at once: sha256, 64 hex digits."""
    with path.open("rb") as stream:
        return digest_stream(stream)


def digest_stream(stream: IO[bytes]) -> str:
    """Hash the rest of a stream, a mebibyte at a time: sha256, 64 hex digits."""
    sha256 = hashlib.sha256()
    while chunk := stream.read(1 << 20):
        sha256.update(chunk)
    return sha256.hexdigest()


def stage_key(stage: str, content: Mapping[str, Any]) -> str:
    """Compute the cache key of a stage's result from all that determines it: sha256, 64 hex digits.

    The key includes the stage and the schema version, so files of an older layout are never reused.
    """
    return digest({"stage": stage, "schema_version": SCHEMA_VERSION, "content": content})


def _plain(value: Any, path: Steps) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float):
        return _number(value, path)
    if kind is dict or isinstance(value, Mapping):
        return {
            key if type(key) is str else _member(key, path): item
            if type(item) in _PLAIN
            else _plain(item, (path, key))
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [
            item if type(item) in _PLAIN else _plain(item, (path, place)) for place, item in enumerate(value)
        ]
    raise StoreError(
        f"cannot name this content: {_show(path)} is a {type(value).__name__}, which JSON has not; "
        "convert it to text, a number, a list or a mapping first"
    )


def _member(key: Any, path: Steps) -> str:
    if not isinstance(key, str):
        raise StoreError(
            f"cannot name this content: {_show(path)} has the key {key!r}, which is no text; write {str(key)!r} instead"
        )
    return str(key)


def _refuse_half_a_pair(value: Any, path: Steps) -> None:
    """Raise StoreError for the first text inside a value that holds half a surrogate pair."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise StoreError(
                f"cannot name this content: {_show(path)} holds half a surrogate pair, which UTF-8 has not; "
                "decode the text with errors='replace' where it is read"
            ) from error
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_half_a_pair(key, path)
            _refuse_half_a_pair(item, (path, key))
    elif isinstance(value, list):
        for place, item in enumerate(value):
            _refuse_half_a_pair(item, (path, place))


def _number(value: float, path: Steps) -> float:
    if not math.isfinite(value) if isinstance(value, float) else abs(value) >= _LARGEST_NUMBER:
        raise StoreError(
            f"cannot name this content: {_show(path)} is {value if isinstance(value, float) else 'a huge integer'}, "
            "which JSON has not; use null or text for it"
        )
    if isinstance(value, float) and not value.is_integer():
        return float(value)
    return int(value)


def _show(steps: Steps) -> str:
    if not steps:
        return "$"
    above, step = steps
    return f"{_show(above)}[{step}]" if isinstance(step, int) else f"{_show(above)}.{step}"
