"""The arguments of a model in Inspect (`-M`), read into the arm that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from flows.answering.find import ArmWish


def read_arguments(model: str, given: Mapping[str, Any]) -> ArmWish:
    """Read the name behind `cmrm/` and the model's arguments; raises `UserError` for unknown or wrong ones."""
    if unknown := [name for name in given if name not in _READERS]:
        raise UserError(f"-M {unknown[0]}: cmrm has no such argument; it has {', '.join(_READERS)}.")
    read = {name: _READERS[name](name, value) for name, value in given.items() if value is not None}
    try:
        return ArmWish(model=model, **read)
    except UserError as error:
        raise UserError(f"-M {error}") from None


def _read_text(name: str, value: Any) -> str:
    # Inspect reads what looks like a number, and cuts at commas.
    if isinstance(value, list):
        return ", ".join(_read_text(name, one) for one in value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"-M {name}: {show_value(value)} is no text.")
    return str(value)


def _read_path(name: str, value: Any) -> Path:
    return Path(_read_text(name, value)).expanduser()


def _read_number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"-M {name}: {show_value(value)} is no number; give one, such as 1.")
    return float(value)


def _read_blocks(name: str, value: Any) -> str | tuple[int, ...]:
    numbers = value if isinstance(value, list) else [value]
    if all(isinstance(one, int) and not isinstance(one, bool) for one in numbers):
        return tuple(numbers)
    return _read_text(name, value)


_READERS: Mapping[str, Callable[[str, Any], Any]] = {
    "shift": _read_text,
    "spec": _read_path,
    "arm": _read_text,
    "alpha": _read_number,
    "store": _read_text,
    "blocks": _read_blocks,
    "scope": _read_text,
    "composition": _read_text,
    "revision": _read_text,
    "system": _read_text,
    "dtype": _read_text,
    "device": _read_text,
}
