"""Stand-in: the watch."""

from __future__ import annotations

from prefect import flow


@flow(name="cmrm-watch")
def watch_deployed(spec: str, store: str | None = None) -> None:
    """Look for a new revision of the spec's models, and run the spec when there is one."""
