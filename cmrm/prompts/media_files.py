"""Find the files that rows name: inside the data set's folder, regular files, links resolved."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line
from cmrm.untrusted.regular_file import name_kind

# The longest path of any file system; longer names are not looked up, such as an image in base64.
MAX_NAME = 4096
MAX_SHOWN = 120
# Numbers in names count: frame 2 comes before frame 10.
_NUMBERS = re.compile(r"(\d+)")


def is_name(name: str) -> bool:
    """Whether a text can be a file name: short, on one line, and not a data URL."""
    return (
        len(name) <= MAX_NAME and not any(mark in name for mark in "\0\n\r") and not name.startswith("data:")
    )


def locate_file(root: Path, name: str, what: str = "image") -> Path:
    """Find the file `name` under `root`, with links resolved; errors call it a `what`.

    Raises `UserError` if it is missing, lies outside `root` (path traversal), or `name` is not a file name.
    """
    path, mode = _locate(root, name, what)
    if (kind := name_kind(mode)) is not None:
        raise UserError(
            f"{what} {show_name(name)} in {root} is {kind}, not a regular file; correct the name."
        )
    return path


def locate_medium(root: Path, name: str, what: str) -> list[Path]:
    """Find the file `name` under `root`, or the files of the folder of that name, numbers in their names in order.

    A folder's path comes first, followed by its files; of these, names that begin with a dot are left out. Raises
    `UserError` as `locate_file` does, for any of the files too.
    """
    path, mode = _locate(root, name, what)
    if not stat.S_ISDIR(mode):
        return [locate_file(root, name, what)]
    try:
        names = sorted(
            (one.name for one in path.iterdir() if not one.name.startswith(".")), key=_sort_by_numbers
        )
    except OSError as error:
        raise UserError(
            f"{what} {show_name(name)} in {root} cannot be read ({_explain(error)}); correct its permissions."
        ) from None
    return [path, *(locate_file(root, f"{name.rstrip('/')}/{one}", what) for one in names)]


def _locate(root: Path, name: str, what: str) -> tuple[Path, int]:
    """Find what has a name under `root`, and its mode."""
    if not is_name(name):
        raise UserError(
            f"{what} name {show_name(name)} ({len(name):,} characters) is no usable file name; give a file in {root}."
        )
    try:
        folder = root.absolute()
        given = folder / name
        # Resolving a path looks at each of its folders, which thousands of missing files need not cost.
        if ".." not in given.parts and given.is_relative_to(folder):
            _refuse_missing(given, root, name, what)
        path = Path(os.path.realpath(given))
        # Without a link in the path there is none in the folder's own, so it need not be resolved again for each image.
        if not path.is_relative_to(folder if path == given else folder.resolve()):
            raise UserError(
                f"{what} {show_name(name)} lies outside {root}; give names inside the image folder, without '..', "
                "and copy files instead of linking out of it."
            )
        _refuse_missing(path, root, name, what)
        return path, path.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        if isinstance(error, PermissionError):
            raise UserError(
                f"{what} {show_name(name)} in {root} cannot be read ({_explain(error)}); correct its permissions."
            ) from None
        raise UserError(
            f"{what} name {show_name(name)} is no usable file name ({_explain(error)}); correct it."
        ) from None


def show_name(name: str) -> str:
    """Quote a file name for a message, cut to a readable length."""
    return repr(name if len(name) <= MAX_SHOWN else f"{name[:MAX_SHOWN]}…")


def _refuse_missing(path: Path, root: Path, name: str, what: str) -> None:
    """Raise `UserError` if nothing is at a path, and `OSError` if nobody may look."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{what} {show_name(name)} is not in {root}; add the file or correct the name."
        ) from None


def _explain(error: Exception) -> str:
    """Say why the system refused a name, without the name."""
    return (error.strerror if isinstance(error, OSError) else None) or first_line(error)


def _sort_by_numbers(name: str) -> list[tuple[int, int, str]]:
    parts = _NUMBERS.split(name)
    return [(0, int(part), "") if number % 2 else (1, 0, part) for number, part in enumerate(parts)]
