"""`cmrm run`: run a spec through to its report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from rich.console import Console

from flows.commands.log_to import find_sinks, log_finished
from flows.commands.repeatable import Repeatable
from flows.commands.store_place import DEFAULT_STORE


def run(
    spec: Path | None = None,
    /,
    *,
    store: Annotated[str | None, Parameter(env_var="CMRM_STORE")] = None,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
    limit: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    log_to: Repeatable = (),
) -> None:
    """Run a spec: extract states, measure Δ, answer, judge, report.

    Finished work is reused, so the same command resumes an interrupted run.

    Parameters
    ----------
    spec
        The spec, a YAML file, or - for standard input. Default: the embedded model on its own data sets.
    store
        The store: a folder or an fsspec URL. Default: the spec's store, else ./cmrm-store.
    server
        API URL of a Prefect server, such as http://127.0.0.1:4200/api. Default: PREFECT_API_URL, else an embedded
        server.
    workers
        Where jobs that need a model run: auto (one process per GPU if there are several, else this process), a
        number of processes, ray:ADDRESS (ray:auto for a local cluster), or deployment:FLOW/NAME.
    limit
        Use at most this many samples of each data set, to try a spec out before a long run.
    log_to
        Show the finished run in this sink too: wandb, mlflow, or one of an installed package; repeatable. A sink that
        fails costs a warning, and `cmrm log` repeats it.
    """
    from flows.commands.result_text import print_result
    from flows.run import run_spec
    from flows.spec.defaults import make_default_spec
    from flows.spec.spec import read_spec

    sinks = find_sinks(log_to)
    read = make_default_spec() if spec is None else read_spec(spec)
    if limit is not None:
        read = read.limit(limit)
    named = store or read.store or DEFAULT_STORE
    result = run_spec(read, store=named, server=server, workers=workers)
    print_result(Console(), result)
    log_finished(result.run_id, named, sinks)
