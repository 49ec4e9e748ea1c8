"""Fields that each request to a server must bring along to be steered, for engines that steer single requests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.export.format import ExportError
from cmrm.export.json_file import read_json
from cmrm.untrusted.printable import show, show_names

FILE = "request-fields.json"
# Vectors of all blocks of the widest models are a few MB.
MOST_BYTES = 64 * 2**20
# What a canary's request says itself.
OWN = frozenset(("model", "messages", "temperature", "max_tokens", "repetition_penalty", "stream", "n"))


def write_request_fields(fields: Mapping[str, Any], folder: Path) -> None:
    """Write the fields beside an export, as a JSON object."""
    (folder / FILE).write_text(json.dumps(fields) + "\n", encoding="utf-8")


def prove_request_fields(fields: Mapping[str, Any], folder: Path) -> None:
    """Read the fields of an export again; raises `ExportError` if they are others."""
    if json.loads((folder / FILE).read_text(encoding="utf-8")) != fields:
        raise ExportError(f"export: {FILE}, read again, is not what was written.")


def read_request_fields(path: Path) -> Mapping[str, Any]:
    """Read the fields from a file.

    Raises `UserError` if it is no JSON object, or has a field that the canary's requests say themselves.
    """
    where = show(path)
    # A request cannot hold NaN and inf, which are no JSON.
    fields = read_json(path, most=MOST_BYTES, wanted=FILE, parse_constant=_refuse_constant)
    if not isinstance(fields, dict):
        raise UserError(f"{where}: is not a JSON object of a request's fields; give the {FILE} of an export.")
    if taken := sorted(OWN & fields.keys()):
        raise UserError(f"{where}: the canary itself says {show_names(taken)}; leave that out.")
    return fields


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it holds {name}")
