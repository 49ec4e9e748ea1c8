"""Metadata from the name of a published file, where no column has it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

from cmrm.datasets.compressed import strip_compression
from cmrm.errors import UserError

Meaning = TypeVar("Meaning")


def read_file_name(path: Path, meanings: Mapping[str, Meaning], *, dataset: str) -> Meaning:
    """Return the value of the one key of `meanings` that the file's name contains, case-insensitively.

    Raises `UserError` if the name contains none of them, or several.
    """
    name = strip_compression(path).name.casefold()
    found = [key for key in meanings if key.casefold() in name]
    if len(found) != 1:
        raise UserError(
            f"data set {dataset!r}: the name of {path} has {len(found)} of {', '.join(meanings)}, and its rows do not "
            "say what they are; give the file the name under which it was published."
        )
    return meanings[found[0]]
