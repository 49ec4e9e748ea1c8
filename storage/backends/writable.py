"""Check that folders named by environment variables are writable, before a long run depends on them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.errors import StoreError


def check_writable(variable: str, folder: Path) -> None:
    """Make a folder if it is missing, and try to write into it; raises StoreError naming the variable."""
    with naming_variable(variable, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


@contextmanager
def naming_variable(variable: str, folder: Path) -> Iterator[None]:
    """Turn an OSError inside the block into a StoreError that names the variable to set."""
    try:
        yield
    except OSError as error:
        reason = "it is a file" if folder.is_file() else (error.strerror or str(error))
        raise StoreError(
            f"{variable}: the folder {folder} cannot be used ({reason}). Set {variable} to a folder that can be "
            "written."
        ) from error
