"""Local copies of a store's files, for readers that need a path on disk."""

from __future__ import annotations

import re
from pathlib import Path

from storage.backends.base import Files
from storage.backends.local_disk import DiskFiles
from storage.errors import StoreError
from storage.records.hashing import digest_bytes, digest_file
from storage.records.layout import DATA_NAME, cache_folder

_DATA_FILE = re.compile(rf"{DATA_NAME}$")


def find_local(files: Files, path: str) -> Path:
    """Find a file on the local disk, downloading it once if the store is remote; raises StoreError if it is missing."""
    if isinstance(files, DiskFiles):
        place = files.path(path)
        if not place.is_file():
            raise StoreError(f"the store has no file {place}: give the command that makes it again")
        return place
    cache = DiskFiles(cache_folder() / digest_bytes(files.url.encode()))
    # Data files are named by their content's digest, so a cached one is right if its digest matches.
    if cache.size(path) is None or not _is_named(path, digest_file(cache.path(path))):
        data = read_file(files, path)
        if _DATA_FILE.search(path) and not _is_named(path, digest_bytes(data)):
            raise StoreError(
                f"{files.url}/{path} was damaged, or on its way here: give the same command again"
            )
        cache.write(path, data)
    return cache.path(path)


def find_image_cache(files: Files, dataset: str) -> Path:
    """Find the folder, which may not exist yet, of images that a data set's rows contain: in the store or its cache."""
    root = files.root if isinstance(files, DiskFiles) else cache_folder() / digest_bytes(files.url.encode())
    return root / "images" / dataset


def _is_named(path: str, sha256: str) -> bool:
    return f".{sha256[:12]}." in path


def read_file(files: Files, path: str) -> bytes:
    """Read one file; raises StoreError if it is missing."""
    ((_, data),) = files.read_many([path])
    if data is None:
        raise StoreError(
            f"the store {files.url} has no file {path}: give the command that makes it again"
        ) from FileNotFoundError(path)
    return data
