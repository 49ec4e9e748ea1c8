"""Escape and truncate untrusted text for messages: printable, on one line, of bounded length."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Collection
from itertools import islice

# Characters of a name or path in a message.
MOST_CHARACTERS = 160
MOST_NAMES = 10
# Letters and marks that render as blank, though their Unicode category does not say so.
_DRAWN_BLANK = frozenset("\u034f\u115f\u1160\u2800\u3164\uffa0") | {
    chr(code) for code in range(0xFE00, 0xFE10)
}
_BLANK_CATEGORIES = frozenset(("Cc", "Cf", "Zl", "Zp", "Zs"))

_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 80
_REPR.maxlevel = 3


def show(text: object, *, most: int = MOST_CHARACTERS) -> str:
    """Escape control characters and line ends of a text, and elide its middle beyond `most` characters."""
    # Truncated before it is escaped, since a text may be megabytes long.
    cut = _leave_out_the_middle(str(text), most)
    safe = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in cut)
    return _leave_out_the_middle(safe, most)


def show_value(value: object) -> str:
    """Write the truncated repr of a value; an integer with too many digits for Python is described instead."""
    try:
        return show(_REPR.repr(value))
    except ValueError:
        return "a whole number of too many digits to show"


def show_names(names: Collection[str]) -> str:
    """Write the first names, and the count of the others."""
    shown = ", ".join(show(name, most=60) for name in islice(names, MOST_NAMES))
    return f"{shown} and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else shown


def first_line(error: BaseException) -> str:
    """Get the first line of an error's message, or its type if the message is empty."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def is_blank(text: str) -> bool:
    """Whether a text is invisible: whitespace, zero-width and other invisible characters only."""
    return all(letter in _DRAWN_BLANK or unicodedata.category(letter) in _BLANK_CATEGORIES for letter in text)


def _leave_out_the_middle(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2]}…{text[len(text) - most // 2 + 1 :]}"
