"""Text from outside, made safe for a terminal: control characters are shown, not sent."""

from __future__ import annotations


def show_safely(text: str) -> str:
    """The text with every character that no terminal prints written as an escape; line ends stay."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )
