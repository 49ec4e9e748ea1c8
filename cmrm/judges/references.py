"""Multiple reference answers to one question, stored as a JSON list of texts in the sample's `reference`."""

from __future__ import annotations

import json


def read_references(reference: str | None) -> list[str] | None:
    """Parse a reference that is a JSON list of several texts; return None for a single reference or none."""
    if reference is None or not reference.startswith("["):
        return None
    try:
        found = json.loads(reference)
    except (ValueError, RecursionError):
        return None
    several = isinstance(found, list) and len(found) > 1 and all(isinstance(one, str) for one in found)
    return found if several else None
