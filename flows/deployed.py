"""The flows that deployments run: a whole run on one worker, and some jobs of a run that is shared out."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefect import flow

from cmrm.errors import UserError
from flows.run import run_spec
from flows.spec import Spec, read_spec
from storage.store import Store
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


def find_store(spec: Spec, store: str | None) -> str:
    """The store of a deployed run; raises `UserError` where nothing names one."""
    place = store or os.environ.get("CMRM_STORE") or spec.store
    if place is None:
        raise UserError(
            "store: nothing names one, and a worker's folder goes with its flow run. Give the deployment the "
            "parameter store, the worker the variable CMRM_STORE, or the spec a field store."
        )
    return Store.open(place).url


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
