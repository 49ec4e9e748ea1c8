"""`cmrm deploy`: put a spec on a Prefect server as a deployment, in one command."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter, validators

from cmrm.errors import UserError
from flows.commands.repeatable import Repeatable

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from rich.console import Console

    from flows.deploy.apply import Change, Found
    from flows.deploy.wanted import Wanted

# Widest value of a field that is shown, in characters.
WIDEST = 100


def deploy(
    spec: Path,
    /,
    *,
    pool: str | None = None,
    watch: Annotated[bool, Parameter(negative="")] = False,
    cron: str | None = None,
    timezone: str | None = None,
    notify: Repeatable = (),
    name: str | None = None,
    store: str | None = None,
    model: str | None = None,
    workers: str = "auto",
    limit: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
    log_to: Repeatable = (),
    embed: Annotated[bool, Parameter(negative="")] = False,
    tag: Repeatable = (),
    job_variable: Repeatable = (),
    create_pool: Literal["process"] | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    remove: Annotated[bool, Parameter(negative="")] = False,
    server: str | None = None,
) -> None:
    """Put a spec on a Prefect server as a deployment, with a schedule and notices.

    A deployment that is there is brought up to date, and each change is said. The command states all of it: what an
    earlier one had and this one leaves out is taken away. A run is started by its schedule, or by `prefect deployment
    run FLOW/NAME`.

    Parameters
    ----------
    spec
        The spec, a YAML file at the same path where the worker runs; see --embed.
    pool
        The work pool whose workers do the runs.
    watch
        Deploy `cmrm watch` instead of `cmrm run`: each time, look for a new revision of the spec's models, and run the
        spec where there is one.
    cron
        The schedule, five fields such as '17 3 * * *'.
    timezone
        The time zone of the schedule, such as Europe/Berlin. Default: UTC.
    notify
        With --watch, a block TYPE/NAME that is told when safety regressed, such as slack-webhook/on-call or
        webhook/pager; repeatable. Its automation on the server is named after the deployment.
    name
        Name of the deployment. Default: that of the spec's file.
    store
        The store: a folder or an fsspec URL, or '{{ prefect.variables.NAME }}', whose value is looked up at each run.
        Default: the worker's CMRM_STORE, else the spec's store.
    model
        A model in place of the spec's: a folder, a hub id, ID@REVISION, or '{{ prefect.variables.NAME }}'.
    workers
        Where a run's jobs that need a model run; see `cmrm run --help`.
    limit
        Use at most this many samples of each data set.
    log_to
        Show each finished run in this sink, with the worker's environment; see `cmrm run --help`. Default: those of the
        worker's CMRM_LOG_TO.
    embed
        Keep the spec's content in the deployment, so that the worker needs no file; its paths become absolute.
    tag
        A tag besides `cmrm`; repeatable.
    job_variable
        A job variable of the pool as NAME=VALUE, such as image=registry.internal/cmrm:0.1.0; repeatable.
    create_pool
        Make the pool, of this type, if it is not there.
    dry_run
        Say what would change, and change nothing.
    remove
        Remove the deployment with its schedule and automation; name it by the spec, --watch and --name.
    server
        API URL of the Prefect server. Default: PREFECT_API_URL.
    """
    from rich.console import Console

    from flows.server.client import quiet_prefect

    quiet_prefect()
    console = Console()
    url = _need_server(server)
    from flows.deploy.wanted import FLOWS, Options, make_wanted, name_deployment
    from flows.server.client import check_server, translate_server_errors, use_server

    check_server(url)
    kind: Literal["run", "watch"] = "watch" if watch else "run"
    with use_server(url), translate_server_errors():
        if remove:
            _remove(console, f"{FLOWS[kind].name}/{name_deployment(spec, name)}", dry_run=dry_run)
            return
        if pool is None:
            raise UserError(
                "--pool: name the work pool whose workers do the runs; prefect work-pool ls lists them."
            )
        options = Options(
            name=name,
            embed=embed,
            store=store,
            model=model,
            workers=workers,
            limit=limit,
            log_to=log_to,
            cron=cron,
            timezone=timezone,
            tags=tag,
            job_variables=job_variable,
            notify=notify,
        )
        wanted = make_wanted(spec, options, kind=kind, pool=pool, server=url)
        _deploy(console, wanted, create_pool=create_pool, dry_run=dry_run, url=url)


def _need_server(server: str | None) -> str:
    from flows.server.client import find_server

    found = find_server(server)
    if found is None:
        raise UserError(
            "deploy: a Prefect server keeps deployments, and none is named. Start one (prefect server start), and give "
            "--server http://127.0.0.1:4200/api or set PREFECT_API_URL."
        )
    return found


def _deploy(console: Console, wanted: Wanted, *, create_pool: str | None, dry_run: bool, url: str) -> None:
    from prefect.client.orchestration import get_client

    from flows.deploy.apply import apply, check_pool, create_process_pool, has_worker, look_up
    from flows.server.client import show_url

    with get_client(sync_client=True) as client:
        if create_pool is not None and not dry_run and create_process_pool(client, wanted.pool):
            _say(console, f"Work pool {wanted.pool}: created, of type {create_pool}.")
        if create_pool is None or not dry_run:
            check_pool(client, wanted, server=show_url(url))
        found = look_up(client, wanted)
        if found.changes and not dry_run:
            apply(client, wanted, found)
        _say(console, f"{wanted.full_name}: {_name_outcome(found, dry_run=dry_run)}.")
        for change in found.changes:
            _say(console, f"  {_describe(change)}")
        for line in _list_missing_variables(client, wanted):
            _say(console, line)
        if dry_run:
            return
        if not has_worker(client, wanted.pool):
            _say(
                console,
                f"No worker of the pool is online. Start one: prefect worker start --pool {quote(wanted.pool)}",
            )
    _say(console, f"Start a run now: prefect deployment run {quote(wanted.full_name)}")


def _name_outcome(found: Found, *, dry_run: bool) -> str:
    if not found.changes:
        return "unchanged"
    outcome = "created" if found.deployment is None else "updated"
    return f"would be {outcome}" if dry_run else outcome


def _describe(change: Change) -> str:
    before, after = (
        text if len(text) <= WIDEST else f"{text[:WIDEST]}…" for text in (change.before, change.after)
    )
    if change.before and change.after:
        changed = "(another content)" if before == after else after
        return f"{change.field}: {before} → {changed}"
    return f"{change.field}: {after}" if after else f"{change.field}: {before} → none"


def _list_missing_variables(client: SyncPrefectClient, wanted: Wanted) -> list[str]:
    """Say of each Prefect variable that is not set yet how to set it."""
    from flows.server.variables import list_variables

    texts = [value for value in wanted.parameters.values() if isinstance(value, str)]
    names = dict.fromkeys(name for text in texts for name in list_variables(text))
    return [
        f"The Prefect variable {name} is not set yet: prefect variable set {name} VALUE"
        for name in names
        if client.read_variable_by_name(name) is None
    ]


def _remove(console: Console, full_name: str, *, dry_run: bool) -> None:
    from prefect.client.orchestration import get_client

    from flows.deploy.apply import list_parts, remove

    with get_client(sync_client=True) as client:
        parts = list_parts(client, full_name) if dry_run else remove(client, full_name)
    for part in parts:
        _say(console, f"{'Would be removed' if dry_run else 'Removed'}: {part}")
    if not parts:
        _say(console, f"{full_name}: there is no such deployment.")


def _say(console: Console, text: str) -> None:
    from rich.text import Text

    from flows.terminal.safe_text import show_safely

    console.print(Text(show_safely(text)), soft_wrap=True)
