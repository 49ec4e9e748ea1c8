"""Databases of a store's views, built once for the same views and rows and kept in the user's cache."""

from __future__ import annotations

import logging
import os
from contextlib import suppress
from pathlib import Path

from storage.backends.local_disk import DiskFiles
from storage.errors import StoreError
from storage.records.hashing import digest_bytes
from storage.records.layout import cache_folder

log = logging.getLogger("cmrm.storage")

# The databases that were used last are kept, and none that is larger than this many bytes.
MOST_KEPT = 8
LARGEST_KEPT = 1 << 25


def restore_database(key: str, place: Path) -> bool:
    """Copy the database kept under a key to `place`; False if there is none, or its bytes have changed."""
    for kept in _folder().glob(f"{key}.*.duckdb"):
        with suppress(OSError):
            data = kept.read_bytes()
            if kept.name == _name(key, data):
                place.write_bytes(data)
                os.utime(kept)
                return True
            kept.unlink()
    return False


def keep_database(key: str, database: Path) -> None:
    """Keep a closed database under a key, and remove those that were not used for longest."""
    if database.stat().st_size > LARGEST_KEPT:
        return
    data = database.read_bytes()
    try:
        _folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        DiskFiles(_folder()).write(_name(key, data), data)
        kept = sorted(_folder().glob("*.duckdb"), key=lambda path: path.stat().st_mtime)
        for path in kept[:-MOST_KEPT]:
            path.unlink(missing_ok=True)
    except (OSError, StoreError) as error:
        # It is built anew each time then.
        log.debug("the database of the views is not kept: %s", error)


def _folder() -> Path:
    return cache_folder() / "sql"


def _name(key: str, data: bytes) -> str:
    return f"{key}.{digest_bytes(data)}.duckdb"
