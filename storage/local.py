"""A store's files on this machine's disk, where some readers need them."""

from __future__ import annotations

import re
from pathlib import Path

from storage.disk import DiskFiles
from storage.errors import StoreError
from storage.files import Files
from storage.identity import digest_bytes, digest_file
from storage.paths import DATA_NAME, cache_folder

_DATA_FILE = re.compile(rf"{DATA_NAME}$")


def find_local(files: Files, path: str) -> Path:
    """Find a file on the disk, fetching it once if the store is remote; raises StoreError if it is not there."""
    if isinstance(files, DiskFiles):
        place = files.path(path)
        if not place.is_file():
            raise StoreError(f"the store has no file {place}: give the command that makes it again")
        return place
    cache = DiskFiles(cache_folder() / digest_bytes(files.url.encode()))
    # Data files are named after their content, so one fetched before is right if it is whole.
    if cache.size(path) is None or not _is_named(path, digest_file(cache.path(path))):
        data = read_file(files, path)
        if _DATA_FILE.search(path) and not _is_named(path, digest_bytes(data)):
            raise StoreError(
                f"{files.url}/{path} was damaged, or on its way here: give the same command again"
            )
        cache.write(path, data)
    return cache.path(path)


def _is_named(path: str, sha256: str) -> bool:
    return f".{sha256[:12]}." in path


def read_file(files: Files, path: str) -> bytes:
    """Read one file; raises StoreError if it is not there."""
    ((_, data),) = files.read_many([path])
    if data is None:
        raise StoreError(
            f"the store {files.url} has no file {path}: give the command that makes it again"
        ) from FileNotFoundError(path)
    return data
