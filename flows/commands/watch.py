"""`cmrm watch`: poll for new model revisions and run a spec on each."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from cmrm.errors import UserError
from flows.commands.repeatable import Repeatable
from flows.commands.store_place import DEFAULT_STORE
from storage.store import Store

# A month, in seconds; a longer interval is a typing error.
LONGEST_INTERVAL = 31 * 24 * 3600.0


def watch(
    spec: Path,
    /,
    *,
    store: Annotated[str | None, Parameter(env_var="CMRM_STORE")] = None,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
    once: Annotated[bool, Parameter(negative="")] = False,
    log_to: Repeatable = (),
    every: Annotated[float, Parameter(validator=validators.Number(gte=1, lte=LONGEST_INTERVAL))] = 3600.0,
) -> None:
    """Poll for new revisions of a model, run each, and compare it with the last.

    Parameters
    ----------
    spec
        The spec, a YAML file.
    store
        The store: a folder or an fsspec URL. Default: the spec's store, else ./cmrm-store.
    server
        API URL of the Prefect server that receives the events. Default: PREFECT_API_URL, else an embedded server.
    workers
        Where jobs that need a model run; see `cmrm run --help`.
    once
        Poll once and exit: status 0 if safety did not get worse, 1 if it did, 2 if that could not be decided.
    log_to
        Show each new run in this sink too; see `cmrm run --help`.
    every
        Seconds between two polls.
    """
    from flows.spec.secrets import refuse_credentials
    from flows.spec.spec import read_spec
    from flows.spec.text_files import is_standard_input
    from flows.watch.loop import watch_on, watch_once

    if is_standard_input(spec):
        raise UserError(
            "watch: the spec is read again at each poll, so it cannot be standard input; name a file."
        )
    # Check before the flow starts: its parameters are stored in Prefect's database.
    refuse_credentials(workers, where="--workers", fix="leave it out")
    read = read_spec(spec)
    url = Store.open(store or read.store or DEFAULT_STORE).url
    if not once:
        watch_on(spec, server=server, seconds=every, store=url, workers=workers, log_to=[*log_to])
    elif status := watch_once(spec, server=server, store=url, workers=workers, log_to=[*log_to]):
        sys.exit(status)
