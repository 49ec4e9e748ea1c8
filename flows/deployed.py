"""Flows of Prefect deployments: a whole run on one worker, and some jobs of a run distributed over a work pool."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from prefect import flow

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redacted_errors, redacting
from flows.run import find_store, run_spec
from flows.server.client import quiet_prefect
from flows.server.variables import resolve_variables
from flows.sinks.log import log_afterwards, make_flow_sinks
from flows.spec.parameters import read_given
from tasks.job_codec import unpack_jobs

log = logging.getLogger("cmrm.flows")


@flow(name="cmrm-run")
@redacting
def run_deployed(
    spec: str | dict[str, Any],
    *,
    store: str | None = None,
    model: str | None = None,
    limit: int | None = None,
    workers: str | int = "auto",
    log_to: list[str] | None = None,
) -> str:
    """Run a spec on all devices of the worker's machine; returns the run id.

    `spec` is a file there, or the content itself. `store` and `model`, which replaces the spec's, may hold
    `{{ prefect.variables.NAME }}`. Without `store`, CMRM_STORE or the spec names it: a worker's working directory is
    temporary. The finished run is shown in the sinks of `log_to`, else of CMRM_LOG_TO.
    Raises `UserError` or `StoreError`, which fail the flow run with a message that says how to fix it.
    """
    read = read_given(spec, model=resolve_variables(model, where="model"))
    if limit is not None:
        read = read.limit(limit)
    place = find_store(read, resolve_variables(store, where="store"))
    sinks = make_flow_sinks(log_to)
    result = run_spec(read, store=place, workers=str(workers))
    log_afterwards(result.run_id, place, sinks, say=log.info)
    return result.run_id


# Prefect resolves parameter types in the function's module, so a decorator from another module would break it.
@flow(name="cmrm-jobs")
def do_jobs(stage: str, jobs: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    """Run some jobs of a stage one after the other, with the model loaded once.

    `jobs` are encoded by `tasks.job_codec.pack_jobs`, `keys` are their keys. Committed jobs are skipped.
    Raises `UserError` if this worker computes other keys.
    """
    with redacted_errors():
        _do_jobs(stage, jobs, keys)


def _do_jobs(stage: str, jobs: Sequence[dict[str, Any]], keys: Sequence[str]) -> None:
    quiet_prefect()
    found, unpacked = unpack_jobs(stage, jobs)
    if [job.key for job in unpacked] != list(keys):
        raise UserError(
            "jobs: this worker computes other job keys than the run that submitted them, so it runs another release of "
            "cmrm; install the same release on both."
        )
    for job in unpacked:
        if found.is_committed(job):
            log.info("%s %s: done by another worker", stage, job.label)
        else:
            found.run(job)
