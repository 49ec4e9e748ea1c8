"""Read UTF-8 text of bounded size from a regular file or standard input."""

from __future__ import annotations

import sys
from pathlib import Path

from cmrm.untrusted.printable import show
from cmrm.untrusted.regular_file import decode_text, read_at_most, read_regular

_STANDARD_INPUT = {"-", "/dev/stdin"}


def is_standard_input(path: Path) -> bool:
    """Whether a path means standard input."""
    return str(path) in _STANDARD_INPUT


def read_text(path: Path, *, most: int) -> str:
    """Read a regular file or standard input of at most `most` bytes; raises `UserError` otherwise."""
    where = "standard input" if is_standard_input(path) else show(path)
    data = (
        read_at_most(sys.stdin.buffer, most=most, where=where)
        if is_standard_input(path)
        else read_regular(path, most=most)
    )
    return decode_text(data, where=where)
