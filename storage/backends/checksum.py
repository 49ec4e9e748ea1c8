"""Verify stored files against their records: size and sha256 checksum."""

from __future__ import annotations

import os
from collections.abc import Hashable

from storage.backends.base import Files
from storage.errors import NotAFileError, explained
from storage.records.hashing import digest_stream
from storage.records.manifest import StoredFile

# Cache of files that this process has verified, with their stamps. Many jobs need a shard's input, and verifying it
# for each would cost more than their work.
_found_whole: dict[tuple[str, StoredFile], Hashable] = {}
MOST_REMEMBERED = 1 << 18


def forget_found_whole() -> None:
    """Clear the verification cache: only reading detects bytes that a disk lost without a write."""
    _found_whole.clear()


def find_fault(files: Files, file: StoredFile) -> str | None:
    """Read a file and describe what is wrong with it: missing, truncated or changed; None if it verifies."""
    try:
        with files.open(file.path) as stream, explained("read", f"{files.url}/{file.path}"):
            if (size := stream.seek(0, os.SEEK_END)) != file.bytes:
                return f"{file.path} has {size} bytes instead of {file.bytes}"
            stream.seek(0)
            sha256 = digest_stream(stream)
    except FileNotFoundError:
        return f"{file.path} is missing"
    except NotAFileError as error:
        return str(error)
    changed = f"{file.path} was changed: its sha256 is not the committed one"
    return None if sha256 == file.sha256 else changed


def find_new_fault(files: Files, file: StoredFile) -> str | None:
    """As `find_fault`, but skip files that this process has verified and that are unchanged since."""
    # Taken before reading: a file that changes meanwhile is verified again the next time.
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
