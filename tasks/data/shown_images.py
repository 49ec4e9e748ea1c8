"""The files of images as a run has shown them: their bytes, if they are those that the store has the digest of."""

from __future__ import annotations

from pathlib import Path

from cmrm.errors import UserError
from cmrm.prompts.media_files import locate_file
from storage.records.hashing import digest_bytes


def read_shown(folder: Path | None, name: str, digest: str | None) -> bytes | None:
    """Read an image's file; None if it is gone by now, or another than the one that was shown."""
    if folder is None:
        return None
    try:
        content = locate_file(folder, name).read_bytes()
    except (UserError, OSError):
        return None  # whoever asks counts it
    return content if digest_bytes(content) == digest else None
