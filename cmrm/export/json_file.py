"""Read a JSON file that a user gives: of limited size, and refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.untrusted.printable import show
from cmrm.untrusted.regular_file import decode_text, read_regular


def read_json(
    path: Path, *, most: int, wanted: str, parse_constant: Callable[[str], Any] | None = None
) -> Any:
    """Read a JSON file of at most `most` bytes; `wanted` names the file to give.

    `parse_constant` is called for NaN and inf, as that of `json.loads`; a `ValueError` that it raises refuses them.
    Raises `UserError` for what is no such file.
    """
    where = show(path)
    text = decode_text(read_regular(path, most=most), where=where)
    try:
        return json.loads(text, parse_constant=parse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: is not JSON ({show(error)}); give the {wanted} of an export.") from None
