"""What a Prefect server holds of the events that watches sent."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen


def read_events(server: str, store: Path, *, count: int) -> list[dict[str, Any]]:
    """The watch's events about a store, oldest first, once the server has at least so many written down."""
    body = {"filter": {"event": {"prefix": ["cmrm."]}, "order": "ASC"}, "limit": 50}
    end = time.monotonic() + 60
    while True:
        request = Request(
            f"{server}/events/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urlopen(request) as response:
            found = json.load(response)["events"]
        own = [event for event in found if event["payload"]["store"] == str(store)]
        if len(own) >= count or time.monotonic() > end:
            return own
        time.sleep(0.2)
