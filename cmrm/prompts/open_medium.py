"""Media that samples name, opened from the data set's folder as untrusted input."""

from __future__ import annotations

from pathlib import Path

from cmrm.errors import UserError
from cmrm.prompts.images import open_image
from cmrm.prompts.media import LoadedMedium, Medium


def open_medium(root: Path, medium: Medium) -> LoadedMedium:
    """Open a medium under the folder `root`; an image as `open_image` does.

    Raises `UserError` for a file that cannot be read, and for video and sound.
    """
    if medium.kind == "image":
        return open_image(root, medium.name)
    raise UserError(
        f"{medium.kind} {medium.name!r} in {root} cannot be read: only images are opened from files."
    )
