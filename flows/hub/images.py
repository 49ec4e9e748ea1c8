"""The images of a run's samples as they were shown: the bytes of the files whose digests the store has."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tasks.data.shown_images import read_shown

Cell = Mapping[str, Any]


class RunImages:
    """Reads images from the folders of their data sets; `lost` are those that are gone or are others by now.

    Rows of one sample come one after the other, so the image that was read last is kept.
    """

    def __init__(self, folders: Mapping[str, Path | None]) -> None:
        self._folders = folders
        self._last: tuple[tuple[str, str, str | None], Cell | None] | None = None
        self.lost: set[tuple[str, str]] = set()

    def read(self, dataset: str, name: str | None, digest: str | None) -> Cell | None:
        """Read an image as a cell of an image column; None where there is none, or not the one that was shown."""
        if name is None:
            return None
        asked = dataset, name, digest
        if self._last is None or self._last[0] != asked:
            self._last = asked, self._read(dataset, name, digest)
        if (cell := self._last[1]) is None:
            self.lost.add((dataset, name))
        return cell

    def _read(self, dataset: str, name: str, digest: str | None) -> Cell | None:
        content = read_shown(self._folders.get(dataset), name, digest)
        if content is None:
            return None
        return {"bytes": content, "path": PurePosixPath(name.replace("\\", "/")).name}
