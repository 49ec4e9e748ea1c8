"""A tree of whole files, wherever it lies."""

from __future__ import annotations

import os
import re
from collections.abc import Hashable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, Protocol

from storage.disk import DiskFiles
from storage.errors import StoreError, explained
from storage.paths import MARK

# user@, or key:secret whose secret may itself hold a slash; a port and the name of an access point are none.
_CREDENTIALS = re.compile(r"://(?:[^/]*@|(?!arn:|\[)[^/:]*:(?!\d*(?:/|$)))")


class Files(Protocol):
    """A tree of files, named by paths relative to its root; each file is seen whole or not at all."""

    @property
    def url(self) -> str:
        """Where the tree is, as a person would write it."""

    def exists(self) -> bool:
        """Say whether the root is there."""

    def write(self, path: str, source: bytes | Path) -> None:
        """Put a file in place at once, over one that is there; when this returns, it outlives a power cut."""

    def scratch(self, folder: str) -> Path:
        """Make an empty file on this machine, for the caller to fill, from which `adopt` is quick."""

    def adopt(self, path: str, scratch: Path) -> None:
        """Put a finished file in place as `write` does, from its scratch place, where it is no more."""

    def copy(self, source: str, path: str) -> None:
        """Put a file of this tree in a second place at once; raises FileNotFoundError if it is not there."""

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading, seekable; raises FileNotFoundError if it is not there."""

    def read_many(self, paths: Sequence[str]) -> Iterator[tuple[str, bytes | None]]:
        """Read small files whole, several at once where that is quicker, in order; None for one that is not there."""

    def size(self, path: str) -> int | None:
        """Measure a file in bytes; None if it is not there."""

    def sizes(self, folder: str) -> dict[str, int]:
        """Measure all files that `under` lists, in bytes."""

    def under(self, folder: str) -> list[str]:
        """List the files in a folder ('' for all) and below, sorted, without those that are still being written."""

    def stamp(self, path: str) -> Hashable | None:
        """Give what tells that a file is still the one that it was, without reading it; None if nothing can."""

    def modified(self, path: str) -> datetime | None:
        """Say when a file was last put in place (UTC); None if it is not there."""

    def unfinished(self) -> list[str]:
        """List what is still being written, or was when its process died."""

    def remove(self, path: str) -> None:
        """Remove a file; one that is not there is fine."""

    def prune(self, folder: str) -> None:
        """Remove a folder if it is empty."""


def open_files(url: str | Path) -> Files:
    """Open a tree of files, without making anything yet.

    Raises StoreError if the place is a file, or the URL's protocol is unknown or lacks its package.
    """
    text = os.fspath(url)
    protocol, separator, rest = text.partition("://")
    if not text or "\0" in text:
        raise StoreError(
            f"{text!r} is no place for a store: give a folder, or a URL such as s3://bucket/folder"
        )
    is_remote = bool(separator) and protocol not in {"file", "local"}
    if separator and _CREDENTIALS.search(text):
        raise StoreError(
            "the URL of the store holds credentials (before an @, or after a colon), which would reach reports and "
            "logs: leave them out, they are read from the environment"
        )
    if is_remote and re.search(r"[?#]", rest):
        raise StoreError(
            "the URL of the store goes on after a ? or #, where credentials and settings would reach reports and logs: "
            "leave that out, they are read from the environment"
        )
    if is_remote:
        # Late, since a store on a disk has no need of fsspec.
        from storage.remote import RemoteFiles

        return RemoteFiles(text)
    try:
        root = Path(rest if separator else text).expanduser()
    except RuntimeError as error:
        raise StoreError(f"cannot open the store {text}: {error} Give a folder that is there") from error
    with explained("look at", str(root)):
        is_file = root.exists() and not root.is_dir()
    if is_file:
        raise StoreError(f"the store {root} is a file: give a folder, or move the file away")
    return DiskFiles(root, mark=MARK)
