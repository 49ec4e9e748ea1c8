"""`cmrm run`: from a spec to its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console

from flows.store_commands import DEFAULT_STORE
from storage.store import Store


def run(
    spec: Path | None = None,
    /,
    *,
    store: Annotated[str | None, Parameter(env_var="CMRM_STORE")] = None,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
    limit: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
) -> None:
    """Run a spec: embed, measure Δ, answer, judge, report. The same command again resumes.

    Parameters
    ----------
    spec
        A YAML file; without it the embedded model runs on its own data sets.
    store
        Where everything is kept: a folder or an fsspec URL. Without it the spec's own, else ./cmrm-store.
    server
        The API URL of a Prefect server, such as http://127.0.0.1:4200/api; without it PREFECT_API_URL or an
        embedded one.
    workers
        Who does the jobs that need a model: auto (a process for each GPU where there are several, else this one), a
        number of processes, ray:ADDRESS (ray:auto for a cluster on this machine), or deployment:FLOW/NAME.
    limit
        Take at most so many samples of each data set: a first look before a long run.
    """
    from flows.defaults import make_default_spec
    from flows.result_text import print_result
    from flows.run import run_spec
    from flows.spec import read_spec

    read = make_default_spec() if spec is None else read_spec(spec)
    if limit is not None:
        read = read.limit(limit)
    place = Store.open(store or read.store or DEFAULT_STORE).url
    result = run_spec(read, store=place, server=server, workers=workers)
    print_result(Console(), result)
