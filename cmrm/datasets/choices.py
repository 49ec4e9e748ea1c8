"""Multiple choice: append lettered choices to the question; the reference is the letter of the right choice."""

from __future__ import annotations

import string
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from cmrm.datasets.fields import RowError, cut, get_plain, get_plain_or_none, name_type

LETTERS = string.ascii_uppercase

# Models answer with a letter only if the prompt requests one.
REQUEST = "Answer with the letter of the right choice."


def get_choices(fields: Mapping[str, Any], name: str) -> list[str]:
    """Return a list of choices as texts; raise `RowError` if it is empty, not a list, or longer than the alphabet."""
    choices = fields.get(name)
    if choices == []:
        raise RowError(f"field {name!r} is empty")
    if not isinstance(choices, list):
        raise RowError(f"field {name!r} is {name_type(choices)}, not a list of texts")
    if len(choices) > len(LETTERS):
        raise RowError(f"field {name!r} has {len(choices)} choices, more than there are letters")
    return [get_plain({name: choice}, name).strip() for choice in choices]


def ask_with_choices(question: str, choices: list[str]) -> str:
    """Format a question with its choices as "(A) …" and the request for a letter; an empty question stays empty."""
    if not question.strip():
        return ""  # screening rejects it
    lettered = [f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)]
    return "\n".join([question.strip(), *lettered, REQUEST])


def get_letter(fields: Mapping[str, Any], name: str, choices: list[str]) -> str | None:
    """Return the letter of the right choice, which a field gives as its text, its letter or its index from 0.

    None if the field is absent or null. Raises `RowError` if it matches none of the choices.
    """
    if (text := get_plain_or_none(fields, name)) is None:
        return None
    text = text.strip()
    value = fields[name]
    given = value[0] if isinstance(value, list) else value
    # A number is an index, also where the choices are numbers; a text is a choice before it is a letter or an index.
    if not isinstance(given, int | float | Decimal) and text in choices:
        return LETTERS[choices.index(text)]
    if text in LETTERS[: len(choices)] and len(text) == 1:
        return text
    if text.isascii() and text.isdigit() and len(text) < 10 and int(text) < len(choices):
        return LETTERS[int(text)]
    raise RowError(
        f"field {name!r} is {cut(text)!r}, which is none of the {len(choices)} choices, counted from 0, nor a letter"
    )
