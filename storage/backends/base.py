"""The interface of storage backends: a tree of files with atomic writes."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from storage.backends.local_disk import DiskFiles
from storage.errors import StoreError, explained
from storage.records.layout import MARK

# user@, or key:secret whose secret may contain a slash; a port or an access point's name is not a secret.
_CREDENTIALS = re.compile(r"://(?:[^/]*@|(?!arn:|\[)[^/:]*:(?!\d*(?:/|$)))")


# Protocols of a local folder.
LOCAL = frozenset({"file", "local"})


class Files(Protocol):
    """A tree of files, named by paths relative to its root; a file is visible complete or not at all."""

    @property
    def url(self) -> str:
        """The location of the tree, as a user would write it."""

    def exists(self) -> bool:
        """Whether the root exists."""

    def write(self, path: str, source: bytes | Path) -> None:
        """Write a file atomically, replacing an existing one; durable (fsync) when this returns."""

    def create(self, path: str, data: bytes) -> bool:
        """Write a small file unless there is one, so that of several writers one gets True and the others False."""

    def scratch(self, folder: str) -> Path:
        """Make an empty local file for the caller to fill, from which `adopt` is cheap."""

    def adopt(self, path: str, scratch: Path) -> None:
        """Move a finished scratch file to its path, as atomically as `write`."""

    def copy(self, source: str, path: str) -> None:
        """Copy a file of this tree to a second path atomically; raises FileNotFoundError if it is missing."""

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading, seekable; raises FileNotFoundError if it is missing."""

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """Read small files, concurrently where that is faster, in order; None for a missing one."""

    def size(self, path: str) -> int | None:
        """The size of a file in bytes; None if it is missing."""

    def sizes(self, folder: str) -> dict[str, int]:
        """The sizes in bytes of all files that `under` lists."""

    def under(self, folder: str) -> list[str]:
        """List the files in a folder ('' for all) recursively, sorted, without unfinished ones."""

    def stamp(self, path: str) -> Hashable | None:
        """A value that changes whenever a file does, computed without reading it; None if there is none."""

    def modified(self, path: str) -> datetime | None:
        """The time of a file's last write (UTC); None if it is missing."""

    def unfinished(self) -> list[str]:
        """List unfinished files, still being written or left by a killed process."""

    def remove(self, path: str) -> None:
        """Remove a file, if it exists."""

    def prune(self, folder: str) -> None:
        """Remove a folder if it is empty."""


def open_files(url: str | Path) -> Files:
    """Open the backend of a URL or folder, without creating anything.

    Raises StoreError if the path is a file, or the URL's protocol is unknown or its package is not installed.
    """
    text = os.fspath(url)
    protocol, separator, rest = text.partition("://")
    if not text or "\0" in text:
        raise StoreError(
            f"{text!r} is no place for a store: give a folder, or a URL such as s3://bucket/folder"
        )
    is_remote = bool(separator) and protocol not in LOCAL
    check_url(text)
    if is_remote:
        # Imported late: a local store does not need fsspec.
        from storage.backends.object_store import RemoteFiles

        return RemoteFiles(text)
    try:
        root = Path(rest if separator else text).expanduser()
    except RuntimeError as error:
        raise StoreError(f"cannot open the store {text}: {error} Give a folder that is there") from error
    with explained("access", str(root)):
        is_file = root.exists() and not root.is_dir()
    if is_file:
        raise StoreError(f"the store {root} is a file: give a folder, or move the file away")
    return DiskFiles(root, mark=MARK)


def check_url(text: str) -> None:
    """Raise StoreError if a store's URL contains credentials or settings, without repeating it."""
    protocol, separator, rest = text.partition("://")
    # URLs of buckets have no port.
    if protocol.lower() in ("http", "https") and "@" not in text and _CREDENTIALS.search(text):
        raise StoreError(
            "the URL of the store has a port that is not a number, and is not shown here, since it may be a password: "
            "correct or remove it"
        )
    if separator and _CREDENTIALS.search(text):
        raise StoreError(
            "the URL of the store holds credentials (before an @, or after a colon), which would reach reports and "
            "logs: leave them out, they are read from the environment"
        )
    if separator and protocol not in LOCAL and re.search(r"[?#]", rest):
        raise StoreError(
            "the URL of the store goes on after a ? or #, where credentials and settings would reach reports and logs: "
            "leave that out, they are read from the environment"
        )
