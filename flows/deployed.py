"""The flows that deployments run: a whole run on one worker, and some jobs of a run that is shared out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from flows.run import run_spec
from flows.spec import read_spec
from flows.store_commands import DEFAULT_STORE
from storage.store import Store
from tasks.parcels import unpack_jobs

log = logging.getLogger("cmrm.flows")


@flow(name="cmrm-run")
def run_deployed(spec: str, store: str | None = None, limit: int | None = None, workers: str = "auto") -> str:
    """Run the spec in a file of the worker's machine, on all of its devices; returns the run's id.

    Raises `UserError` or `StoreError`, which fail the flow run with a message that says how to mend it.
    """
    read = read_spec(Path(spec))
    if limit is not None:
        read = read.limit(limit)
    place = Store.open(store or read.store or DEFAULT_STORE).url
    return run_spec(read, store=place, workers=workers).run_id


@flow(name="cmrm-jobs")
def do_jobs(stage: str, jobs: Sequence[dict[str, Any]]) -> list[str]:
    """Do some jobs of a stage one after the other, with the model loaded once; returns their keys.

    `jobs` are as `tasks.parcels.pack_jobs` writes them. One that is committed is not done again.
    """
    found, unpacked = unpack_jobs(stage, jobs)
    for job in unpacked:
        if found.find(job) is None:
            found.run(job)
        else:
            log.info("%s %s: done by another worker", stage, job.label)
    return [job.key for job in unpacked]
