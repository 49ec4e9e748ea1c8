"""A published layout as the damaged-row tests need to know it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Case:
    """A fixture file, how it is written, and where in a row its question stands, its id and its image's name.

    `inside` is the key under which the list of rows stands in the document.
    """

    format: str
    file: str
    kind: str
    question: tuple[str | int, ...]
    id: tuple[str | int, ...] | None = None
    image: tuple[str | int, ...] | None = None
    escape: str = "../secret.png"
    inside: str = ""
