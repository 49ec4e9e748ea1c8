"""Files named by the user: regular files only, since a FIFO would block and a device has no end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import IO

from cmrm.errors import UserError
from cmrm.untrusted.printable import show

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO (a named pipe)"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a block device"),
    (stat.S_ISSOCK, "a socket"),
)


class MissingFileError(UserError):
    """There is no file at the given path."""


def is_folder(path: Path) -> bool:
    """Whether there is a folder at a path; False if that raises, such as for an invalid file name."""
    try:
        return path.is_dir()
    except OSError:
        return False


def path_exists(path: Path) -> bool:
    """Whether anything exists at a path; False if that raises, such as for an invalid file name."""
    try:
        return path.exists()
    except OSError:
        return False


def refuse_no_image_folder(path: Path) -> None:
    """Raise `UserError` if there is no folder at the path of a data set's images, or it must not be looked up."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        what = "does not exist"
    except (OSError, ValueError) as error:
        what = f"cannot be read ({error.strerror if isinstance(error, OSError) else error})"
    else:
        if stat.S_ISDIR(mode):
            return
        what = f"is {name_kind(mode) or 'a file'}, not a folder"
    raise UserError(f"image folder {show(path)} {what}; correct the path of `images`.")


def refuse_forbidden(path: Path) -> None:
    """Raise `UserError` if this process may not look up a path, or list a folder, which would pass for empty."""
    try:
        if path.is_dir():
            os.scandir(path).close()
    except PermissionError as error:
        raise UserError(
            f"{show(path)}: cannot be read ({error.strerror}); correct the path or its permissions."
        ) from None
    except OSError:
        return  # whoever opens it says why it cannot be


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file to read its bytes.

    Raises `MissingFileError` if there is none, and `UserError` for a folder, FIFO, device or socket and for a file that
    cannot be read.
    """
    try:
        # Checked before opening, which has effects on some devices, and after, since it may have been replaced.
        _refuse_other_kinds(path, path.stat().st_mode)
        # Non-blocking: opening a FIFO without a writer would block.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        stream = os.fdopen(handle, "rb")
    except FileNotFoundError:
        raise MissingFileError(f"{show(path)}: does not exist; correct the path.") from None
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{show(path)}: cannot be read ({reason}); correct the path or its permissions."
        ) from None
    try:
        _refuse_other_kinds(path, os.fstat(handle).st_mode)
    except BaseException:
        stream.close()
        raise
    return stream


def read_regular(path: Path, *, most: int) -> bytes:
    """Read a regular file of at most `most` bytes; raises `UserError` as `open_regular` does, and for a longer one."""
    with open_regular(path) as stream:
        return read_at_most(stream, most=most, where=show(path))


def read_at_most(stream: IO[bytes], *, most: int, where: str) -> bytes:
    """Read the rest of a stream; raises `UserError` if it is longer than `most` bytes or cannot be read."""
    try:
        data = stream.read(most + 1)
    except OSError as error:
        raise UserError(f"{where}: cannot be read ({error.strerror}); check the file.") from None
    if len(data) > most:
        raise UserError(
            f"{where}: is longer than {most / 2**20:g} MiB, which no such file is; give another one."
        )
    return data


def decode_text(data: bytes, *, where: str) -> str:
    """Decode UTF-8, with or without a byte order mark; raises `UserError` with the line of the first invalid byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{where}: line {line}: is not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8."
        ) from None


def name_kind(mode: int) -> str | None:
    """Name what has a mode of `os.stat`; None for a regular file."""
    return next((name for is_kind, name in _KINDS if is_kind(mode)), None)


def _refuse_other_kinds(path: Path, mode: int) -> None:
    if (kind := name_kind(mode)) is not None:
        raise UserError(f"{show(path)}: is {kind}, not a regular file; correct the path.")
