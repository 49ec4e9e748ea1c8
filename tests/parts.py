"""Wait for what a worker keeps."""

from __future__ import annotations

import time
from pathlib import Path


def wait_for_part(store: Path, *, seconds: float = 5.0) -> bool:
    """Wait until some part of a shard is kept in a store; whether there is one in the end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if any((store / "parts").rglob("*.parquet")):
            return True
        time.sleep(0.01)
    return False
