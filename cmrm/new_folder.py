"""A new folder that gets its name only when it is whole."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, get_args
from uuid import uuid4

from safetensors import SafetensorError

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line, show

# What a hidden folder is: an output being written, or exports that are only run.
Kind = Literal["partial", "sweep"]


def refuse_used(output: Path) -> None:
    """Raise `UserError` unless a path is free, or an empty folder that can be replaced, where files can be made."""
    try:
        free = not any(output.iterdir()) if output.is_dir() else not os.path.lexists(output)
    except OSError as error:
        raise UserError(
            f"--output {show(output)}: cannot be read ({error.strerror}); name another."
        ) from None
    if not free:
        raise UserError(f"--output {show(output)}: is there already; name a new or an empty folder.")
    if output.is_dir() and (output.is_symlink() or os.path.ismount(output) or output.samefile(Path.cwd())):
        raise UserError(
            f"--output {show(output)}: is a link, a mount point or the working folder, which no finished folder can "
            "replace; name a new folder in it."
        )
    above = next(one for one in output.absolute().parents if os.path.lexists(one))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise UserError(
            f"--output {show(output)}: cannot be written ({show(above)} takes no files); name another."
        )


@contextmanager
def write_new_folder(output: Path) -> Iterator[Path]:
    """Make a hidden folder beside the final one, and rename it when the body ends without an error.

    Raises `UserError` if it cannot be written; then, and if the body raises, nothing is left of it.
    """
    with make_hidden_folder(output, kind="partial") as folder, _renaming(folder, output):
        yield folder


@contextmanager
def make_hidden_folder(output: Path, *, kind: Kind) -> Iterator[Path]:
    """Make a hidden folder beside an output, and remove it at the end unless it was renamed.

    What a killed process left there for the same output is removed first. Raises `UserError` if none can be made.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(output)
        folder, handle = _make_locked(output, kind)
    except OSError as error:
        raise UserError(f"--output {show(output)}: cannot be written ({error.strerror}).") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _make_locked(output: Path, kind: Kind) -> tuple[Path, int]:
    """Make a hidden folder, with a lock on it that ends with this process: nobody removes it before."""
    while True:
        folder = output.parent / f".{output.name}.{kind}-{uuid4().hex[:8]}"
        folder.mkdir()
        with suppress(FileNotFoundError):
            handle = os.open(folder, os.O_RDONLY)
            # Another process may have found it before it was locked, and have removed it.
            if _lock(handle) is not False and folder.is_dir():
                return folder, handle
            os.close(handle)


def _remove_abandoned(output: Path) -> None:
    """Remove hidden folders of this output whose process has ended without removing them."""
    name = re.compile(rf"\.{re.escape(output.name)}\.({'|'.join(get_args(Kind))})-[0-9a-f]{{8}}")
    # A folder into which files can be put need not be one that can be listed.
    listed = list(output.parent.iterdir()) if os.access(output.parent, os.R_OK) else []
    for path in [one for one in listed if name.fullmatch(one.name)]:
        # It may be gone by now, a link, or another user's.
        with suppress(OSError):
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if _lock(handle):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(handle)


def _lock(handle: int) -> bool | None:
    """Lock an open folder: whether that succeeded, or None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _renaming(folder: Path, output: Path) -> Iterator[None]:
    """Rename a folder when the body ends without an error; raises `UserError` if it or the body cannot write."""
    try:
        yield
        sync_tree(folder)
        if output.is_dir():
            output.rmdir()
        folder.rename(output)
        _sync_folder(output.parent)
    except OSError as error:
        if error.errno is None:
            raise
        own = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(folder)
        fault = "cannot be written" if own else f"cannot be finished: {show(error.filename)}"
        raise UserError(
            f"--output {show(output)}: {fault} ({error.strerror}); nothing is left of it."
        ) from error
    except SafetensorError as error:
        raise UserError(
            f"--output {show(output)}: cannot be written ({first_line(error)}); nothing is left of it."
        ) from error


def sync_tree(folder: Path) -> None:
    """Have the disk keep every file before the folder gets its name."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            _sync_folder(path)
            continue
        with path.open("rb") as file:
            os.fsync(file.fileno())
    _sync_folder(folder)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
