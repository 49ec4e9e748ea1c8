"""`cmrm watch`: runs of a spec whenever its model has a new revision."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from flows.store_commands import DEFAULT_STORE

# A month, in seconds: a longer interval is a mistake in the number.
LONGEST_INTERVAL = 31 * 24 * 3600.0


def watch(
    spec: Path,
    /,
    *,
    store: Annotated[str | None, Parameter(env_var="CMRM_STORE")] = None,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
    once: Annotated[bool, Parameter(negative="")] = False,
    every: Annotated[float, Parameter(validator=validators.Number(gte=1, lte=LONGEST_INTERVAL))] = 3600.0,
) -> None:
    """Notice a model's new revision, run the spec on it, and say whether safety got worse than in the last run.

    Parameters
    ----------
    spec
        A YAML file.
    store
        Where the runs are: a folder or an fsspec URL. Without it the spec's own, else ./cmrm-store.
    server
        The API URL of a Prefect server, which gets the events; without it PREFECT_API_URL or an embedded one.
    workers
        Who does the jobs that need a model, as for `cmrm run`.
    once
        Look once and end: status 1 if safety got worse, 2 if it could not be said, else 0.
    every
        Seconds between two looks.
    """
    from flows.spec import read_spec
    from flows.watch_loop import watch_on, watch_once

    place = store or read_spec(spec).store or DEFAULT_STORE
    if not once:
        watch_on(spec, server=server, seconds=every, store=place, workers=workers)
    elif status := watch_once(spec, server=server, store=place, workers=workers):
        sys.exit(status)
