"""Expand `~` in paths of a spec."""

from __future__ import annotations

from pathlib import Path

from cmrm.errors import UserError


def expand_home(given: str, *, field: str) -> str:
    """Expand `~` or `~name` at the start of a path; raises `UserError` for an unknown user."""
    if not given.startswith("~"):
        return given
    try:
        return str(Path(given).expanduser())
    except RuntimeError:
        raise UserError(
            f"{field}: {given} starts at a home folder that does not exist; write it in full."
        ) from None
