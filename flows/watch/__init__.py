"""`cmrm watch`: a run for each new revision of a model, and a verdict on it. Imports `flows.run` and below."""

from __future__ import annotations

from typing import Any


def __getattr__(name: str) -> Any:
    """Import the flow named in `prefect.yaml` lazily, since it imports Prefect."""
    if name == "watch_deployed":
        from flows.watch.poll import watch_deployed

        return watch_deployed
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
