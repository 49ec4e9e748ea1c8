"""Read a JSON file of a model's folder where a broken one is reported by who loads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def read_settings(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} for a file that is missing or broken, which transformers reports when it reads it."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
