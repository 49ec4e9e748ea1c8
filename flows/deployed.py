"""Stand-in: the flows that deployments run."""

from __future__ import annotations

from typing import Any

from prefect import flow


@flow(name="cmrm-run")
def run_deployed(
    spec: str, store: str | None = None, limit: int | None = None, workers: str | int = "auto"
) -> str:
    """One whole run on the machine of one worker, on all its devices; the id of the run."""
    return f"{spec} {store} {limit} {workers}"


@flow(name="cmrm-jobs")
def do_jobs(stage: str, jobs: list[dict[str, Any]]) -> list[str]:
    """Some shards of a stage, for a run that shares its shards out; their keys."""
    return [f"{stage} {len(jobs)}"]
