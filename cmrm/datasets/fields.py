"""Field validation: typed getters for a row's fields that raise `RowError`, which rejects the row."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePosixPath
from typing import Any

# Above it, a float cannot represent every integer.
_LARGEST_EXACT = 2**53
# No decimal of a file has as many digits.
_MAX_DIGITS = 100

# Spellings of booleans in spreadsheets and programs.
_TRUTHS = {
    **dict.fromkeys(("true", "yes", "1", "1.0"), True),
    **dict.fromkeys(("false", "no", "0", "0.0"), False),
}


class RowError(ValueError):
    """A row is invalid and goes to quarantine; the message is the reason."""


def clean(text: str) -> str:
    """Replace NUL characters and lone surrogates, which a database or UTF-8 cannot hold."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode("utf-8")


def is_storable(text: str) -> bool:
    """Whether a database and UTF-8 can hold a text: it has no NUL character and no lone surrogate."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text


def get_text(fields: Mapping[str, Any], name: str) -> str:
    """Return a text field; raise `RowError` if it is absent, not a text, or not storable (NUL, invalid UTF-8)."""
    if fields.get(name) is None:
        raise RowError(f"no field {name!r}")
    value = fields[name]
    if not isinstance(value, str):
        raise RowError(f"field {name!r} is {name_type(value)}, not text")
    if "\0" in value:
        raise RowError(f"field {name!r} holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(f"field {name!r} is not valid UTF-8") from None
    return value


def get_text_or_none(fields: Mapping[str, Any], name: str) -> str | None:
    """Return a text field, or None if it is absent, null or blank."""
    if fields.get(name) is None:
        return None
    text = get_text(fields, name)
    return text if text.strip() else None


def get_filled_text(fields: Mapping[str, Any], name: str) -> str:
    """Return a text field that is not blank; raise `RowError` otherwise."""
    if not get_text(fields, name).strip():
        raise RowError(f"field {name!r} is empty")
    return get_text(fields, name)


def get_plain(fields: Mapping[str, Any], name: str) -> str:
    """Return a scalar field as text: a text, number, boolean or date, or a list with one of these.

    An integral float or decimal has no decimal point (3.0 is "3": a column with gaps holds floats), and true is "true".
    Raises `RowError` as `get_text` does.
    """
    return get_text({name: write_plainly(fields.get(name), name)}, name)


def get_plain_or_none(fields: Mapping[str, Any], name: str) -> str | None:
    """Return a scalar field as text, or None if it is absent, null, blank, an empty list or NaN."""
    if (value := fields.get(name)) is None:
        return None
    return get_text_or_none({name: write_plainly(value, name)}, name)


def write_plainly(value: object, name: str) -> object:
    """Convert a number, boolean or date to text, and unwrap a list of one element; other values pass unchanged.

    Raises `RowError` for a longer list.
    """
    if isinstance(value, list):
        value = _take_element(value, name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float | Decimal):
        return _write_number(value)
    if isinstance(value, int | dt.date):
        return str(value)
    return value


def _write_number(value: float | Decimal) -> str | None:
    """Write an integral number without a point, however many places its column has; None for NaN."""
    if math.isnan(value):
        return None
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) <= _LARGEST_EXACT else repr(value)
    exact = value.is_finite() and value.adjusted() < _MAX_DIGITS and value == value.to_integral_value()
    return str(int(value)) if exact else str(value)


def _take_element(values: list[Any], name: str) -> object:
    if len(values) > 1:
        raise RowError(f"field {name!r} is a list of {len(values)}, not one text")
    if values and isinstance(values[0], list):
        raise RowError(f"field {name!r} is a list of lists, not one text")
    return values[0] if values else None


def get_truth(fields: Mapping[str, Any], name: str) -> bool:
    """Parse a boolean field: true or false, 1 or 0, yes or no; raise `RowError` otherwise."""
    value = write_plainly(fields.get(name), name)
    found = _TRUTHS.get(value.strip().casefold()) if isinstance(value, str) else None
    if found is None:
        shown = repr(value[:80]) if isinstance(value, str) else name_type(value)
        raise RowError(f"field {name!r} is {shown}, neither true nor false")
    return found


def get_id(fields: Mapping[str, Any], name: str) -> str:
    """Return an id field, a text or an integer; raise `RowError` otherwise."""
    value = fields.get(name)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    found = get_text(fields, name).strip()
    if not found:
        raise RowError(f"field {name!r} is empty")
    return found


def content_id(question: str, image: str | None, others: Mapping[str, Any] | None = None) -> str:
    """Make an id from a digest of the content, for a row without an id: inserting rows above does not change it.

    `others` are further fields that distinguish it from a sample with the same question and image.
    """
    content = f"{image or ''}\0{question}"
    if others:
        content += f"\0{json.dumps(dict(others), sort_keys=True)}"
    digest = hashlib.sha256(content.encode()).hexdigest()[:10]
    # Paths from Windows use backslashes.
    return f"{PurePosixPath(image.replace(chr(92), '/')).stem}-{digest}" if image else digest


def join_names(*names: str | None) -> str | None:
    """Join a category and its subcategory as `category/subcategory`; None if both are absent."""
    return "/".join(name.strip() for name in names if name) or None


def cut(text: str, characters: int = 80) -> str:
    """Truncate a text for a message, with an ellipsis."""
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def name_type(value: object) -> str:
    """Name the JSON type of a value for a message."""
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null", str: "a text"}
    if type(value) in names:
        return names[type(value)]
    return "a number" if isinstance(value, int | float) else f"a value of type {type(value).__name__}"
