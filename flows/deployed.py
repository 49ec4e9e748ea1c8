"""The flows that deployments run: a whole run on one worker, and some jobs of a run that is shared out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from cmrm.errors import UserError
from flows.run import find_store, run_spec
from flows.server.client import quiet_prefect
from flows.spec import read_spec
from tasks.parcels import unpack_jobs

log = logging.getLogger("cmrm.flows")


@flow(name="cmrm-run")
def run_deployed(
    spec: str, store: str | None = None, limit: int | None = None, workers: str | int = "auto"
) -> str:
    """Run the spec in a file of the worker's machine, on all of its devices; returns the run's id.

    Without a `store` that of CMRM_STORE, else of the spec: a worker's own folder is no place to keep anything.
    Raises `UserError` or `StoreError`, which fail the flow run with a message that says how to mend it.
    """
    read = read_spec(Path(spec))
    if limit is not None:
        read = read.limit(limit)
    place = find_store(read, store)
    return run_spec(read, store=place, workers=str(workers)).run_id


@flow(name="cmrm-jobs")
def do_jobs(stage: str, jobs: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Do some jobs of a stage one after the other, with the model loaded once.

    `jobs` are as `tasks.parcels.pack_jobs` writes them, `keys` theirs. One that is committed is not done again.
    Raises `UserError` where this worker would keep them under other keys.
    """
    quiet_prefect()
    found, unpacked = unpack_jobs(stage, jobs)
    if [job.key for job in unpacked] != list(keys):
        raise UserError(
            "jobs: this worker names them otherwise than the run that shares them out, so it runs another release of "
            "cmrm; install the same one on both."
        )
    for job in unpacked:
        if found.is_committed(job):
            log.info("%s %s: done by another worker", stage, job.label)
        else:
            found.run(job)
