"""Media that samples name, opened from the data set's folder as untrusted input."""

from __future__ import annotations

from pathlib import Path

from cmrm.prompts.images import open_image
from cmrm.prompts.media import LoadedMedium, Medium
from cmrm.prompts.sounds import open_audio
from cmrm.prompts.videos import FRAMES, open_video


def open_medium(root: Path, medium: Medium) -> LoadedMedium:
    """Open a medium under the folder `root`.

    Raises `UserError` for a file that cannot be read (`open_image`, `open_video`, `open_audio`), and
    `MissingPackageError` for one that needs a package that is not installed.
    """
    match medium.kind:
        case "image":
            return open_image(root, medium.name)
        case "video":
            return open_video(root, medium.name, frames=medium.frames or FRAMES)
        case "audio":
            return open_audio(root, medium.name)
