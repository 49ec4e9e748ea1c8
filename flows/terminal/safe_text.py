"""Escape control characters in text from outside before printing it to a terminal."""

from __future__ import annotations


def show_safely(text: str) -> str:
    """Escape every unprintable character of a text except newlines."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else repr(letter)[1:-1] for letter in text
    )
