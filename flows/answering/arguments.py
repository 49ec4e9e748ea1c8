"""Arguments of a model in another program, as it has read them, into the arm that answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from flows.answering.find import ArmWish


def read_wish(model: str, given: Mapping[str, Any], *, option: str, others: Sequence[str] = ()) -> ArmWish:
    """Read a model's name and its arguments.

    Messages put `option` before an argument's name; `others` are arguments that the program reads itself. Raises
    `UserError` for unknown or wrong ones.
    """
    if unknown := [name for name in given if name not in _READERS]:
        known = ", ".join([*_READERS, *others])
        raise UserError(f"{option}{unknown[0]}: cmrm has no such argument; it has {known}.")
    try:
        return ArmWish(
            model=model,
            **{name: _READERS[name](name, value) for name, value in given.items() if value is not None},
        )
    except UserError as error:
        raise UserError(f"{option}{error}") from None


def _read_text(name: str, value: Any) -> str:
    # These programs read what looks like a number, and Inspect cuts at commas, with what stands around them kept.
    if isinstance(value, list):
        return ",".join(_read_text(name, one) for one in value)
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise UserError(f"{name}: {show_value(value)} is no text.")
    return str(value)


def _read_path(name: str, value: Any) -> Path:
    return Path(_read_text(name, value)).expanduser()


def _read_number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name}: {show_value(value)} is no number; give one, such as 1.")
    return float(value)


def _read_blocks(name: str, value: Any) -> str | tuple[int, ...]:
    # A list that Inspect has cut is one of texts.
    listed = [_read_text(name, one).strip() for one in (value if isinstance(value, list) else [value])]
    if all(one.isascii() and one.isdecimal() for one in listed):
        return tuple(map(int, listed))
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
