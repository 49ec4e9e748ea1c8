"""Whether a file is what a record says of it: its size, and the sha256 of its bytes."""

from __future__ import annotations

import os
from collections.abc import Hashable

from storage.errors import explained
from storage.files import Files
from storage.identity import digest_stream
from storage.manifest import StoredFile

# Files that this process has read and found whole, as they stood then. A shard's input is needed by many jobs, and
# reading it for each would cost more than their work.
_found_whole: dict[tuple[str, StoredFile], Hashable] = {}
MOST_REMEMBERED = 1 << 18


def forget_found_whole() -> None:
    """Let every file be read again: what a disk loses without a write is seen by reading alone."""
    _found_whole.clear()


def find_fault(files: Files, file: StoredFile) -> str | None:
    """Read a file and say what is wrong with it: missing, cut or changed; None if it verifies."""
    try:
        with files.open(file.path) as stream, explained("read", f"{files.url}/{file.path}"):
            if (size := stream.seek(0, os.SEEK_END)) != file.bytes:
                return f"{file.path} has {size} bytes instead of {file.bytes}"
            stream.seek(0)
            sha256 = digest_stream(stream)
    except FileNotFoundError:
        return f"{file.path} is missing"
    changed = f"{file.path} was changed: its sha256 is not the committed one"
    return None if sha256 == file.sha256 else changed


def find_new_fault(files: Files, file: StoredFile) -> str | None:
    """As `find_fault`, but without reading again what this process has found whole and nobody has touched since."""
    # Taken before reading: what changes meanwhile is read again the next time.
    stamp = files.stamp(file.path)
    known = (files.url, file)
    if stamp is not None and _found_whole.get(known) == stamp:
        return None
    fault = find_fault(files, file)
    if fault is None and stamp is not None:
        if len(_found_whole) >= MOST_REMEMBERED:
            _found_whole.clear()
        _found_whole[known] = stamp
    return fault
