"""A new folder that gets its name only when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from safetensors import SafetensorError

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line, show


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
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        folder = output.parent / f".{output.name}.partial-{uuid4().hex[:8]}"
        folder.mkdir()
    except OSError as error:
        raise UserError(f"--output {show(output)}: cannot be written ({error.strerror}).") from None
    try:
        yield folder
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
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
