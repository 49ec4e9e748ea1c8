"""Containers of video and sound (MP4, WebM, Matroska, Ogg, FLAC, MP3, AAC), opened by PyAV as untrusted input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cmrm.errors import MissingPackageError, UserError
from cmrm.prompts.images import MAX_PIXELS
from cmrm.untrusted.printable import first_line
from cmrm.untrusted.regular_file import open_regular

# The demuxer of each container. FFmpeg guesses none: its playlists and scripts open other files and addresses.
VIDEO_CONTAINERS = {"mov": "MP4 or QuickTime", "matroska": "WebM or Matroska"}
AUDIO_CONTAINERS = {**VIDEO_CONTAINERS, "ogg": "Ogg", "flac": "FLAC", "mp3": "MP3", "aac": "AAC"}
# Types of the first box of MP4 and QuickTime files.
_BOXES = frozenset((b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"))
_STARTS = {b"\x1a\x45\xdf\xa3": "matroska", b"OggS": "ogg", b"fLaC": "flac", b"ID3": "mp3"}
# Data that is cut off by less than this is taken for whole: not every writer counts the last frame's time.
SPARE_SECONDS = 0.5
# Above an hour of video at 60 frames a second with two streams of sound.
MAX_PACKETS = 1_000_000


def find_container(start: bytes) -> str | None:
    """Name the demuxer for a file by its first bytes (at least 12); None if it is no known container."""
    if start[4:8] in _BOXES:
        return "mov"
    for mark, name in _STARTS.items():
        if start.startswith(mark):
            return name
    if len(start) > 1 and start[0] == 0xFF and start[1] & 0xE0 == 0xE0:
        # The bits of the layer, 0 for AAC.
        return "mp3" if start[1] & 0x06 else "aac"
    return None


@contextmanager
def open_container(path: Path, name: str, *, who: str) -> Iterator[Any]:
    """Open a file with one demuxer; `who` names it in errors.

    Raises `MissingPackageError` if PyAV is not installed. What PyAV raises of damaged bytes becomes a `UserError`.
    """
    try:
        import av
    except ImportError:
        raise MissingPackageError(
            f"{who} needs the package av, which is not installed: pip install 'cmrm[video]'"
        ) from None
    try:
        with (
            open_regular(path) as file,
            # A stream, whose name no container sees, so that no file beside it is found either.
            av.open(file, format=name, options={"max_pixels": str(MAX_PIXELS)}) as container,
        ):
            yield container
    except UserError:
        raise
    except MemoryError:
        raise
    # FFmpeg's errors are OSErrors and ValueErrors, and damaged files raise others as well.
    except Exception as error:  # noqa: BLE001
        raise UserError(
            f"{who} cannot be read ({first_line(error)}); replace the file or remove the row."
        ) from None


def refuse_cut(end: float, duration: int | None, *, who: str) -> None:
    """Raise `UserError` if a file's data ends, in seconds, before its header says (µs, None where it says nothing)."""
    if duration is not None and end + SPARE_SECONDS < duration / 1e6:
        raise UserError(
            f"{who} is cut off: it has {duration / 1e6:.1f} seconds by its header, and data of {end:.1f}; replace the "
            "file or remove the row."
        )


def read_packets(container: Any, *, who: str) -> Iterator[Any]:
    """Read the packets of all streams that hold data; `UserError` for damaged ones, and for more than `MAX_PACKETS`."""
    for number, packet in enumerate(container.demux()):
        if number >= MAX_PACKETS:
            raise UserError(f"{who} has more than {MAX_PACKETS:,} packets; cut it shorter.")
        if packet.is_corrupt:
            raise UserError(f"{who} is cut off or damaged; replace the file or remove the row.")
        if packet.size:
            yield packet
