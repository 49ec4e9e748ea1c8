"""What a deployment of a spec should be on the server: its flow, parameters, schedule, job variables and notices."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from prefect import Flow
from prefect.client.schemas.schedules import CronSchedule
from prefect.utilities.callables import parameter_schema
from pydantic import ValidationError

from cmrm.errors import UserError
from cmrm.untrusted.printable import show_value
from cmrm.untrusted.regular_file import is_folder
from flows.server.variables import check_placeholders, list_variables
from flows.sinks import SINKS
from flows.spec.home import expand_home
from flows.spec.parameters import replace_model
from flows.spec.secrets import find_secret, refuse_credentials
from flows.spec.spec import Spec, read_spec
from flows.spec.text_files import is_standard_input
from flows.workers.base import check_choice
from storage.store import Store

Kind = Literal["run", "watch"]
# The tag by which the automation of docs/deploy/zombies.yaml knows what to watch over.
TAG = "cmrm"
# As in prefect.yaml: how often a flow run says that it is alive, and whose log lines Prefect shows.
ENVIRONMENT = MappingProxyType(
    {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "60",
        "PREFECT_LOGGING_EXTRA_LOGGERS": "cmrm",
        "DO_NOT_TRACK": "1",
    }
)
# Characters that Prefect refuses in a name.
REFUSED = "/%&><"


class _Deployed(NamedTuple):
    """A flow that can be deployed: its name, where it is, and what it does."""

    name: str
    entrypoint: str
    does: str


FLOWS: Mapping[Kind, _Deployed] = MappingProxyType(
    {
        "run": _Deployed(
            "cmrm-run", "flows.deployed.run_deployed", "One run of a spec, from samples to report."
        ),
        "watch": _Deployed(
            "cmrm-watch",
            "flows.watch.watch_deployed",
            "Look for a new revision of a spec's models; run the spec where there is one.",
        ),
    }
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of `cmrm deploy` that say what is deployed; `job_variables` are NAME=VALUE."""

    name: str | None
    embed: bool
    store: str | None
    model: str | None
    workers: str
    limit: int | None
    log_to: Sequence[str]
    cron: str | None
    timezone: str | None
    tags: Sequence[str]
    job_variables: Sequence[str]
    notify: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A deployment as it should be; `notify` names blocks that are told of regressions."""

    flow: _Deployed
    name: str
    pool: str
    parameters: Mapping[str, Any]
    schema: Mapping[str, Any]
    schedule: CronSchedule | None
    tags: Sequence[str]
    job_variables: Mapping[str, Any]
    at_once: int | None
    notify: Sequence[str]
    version: str

    @property
    def full_name(self) -> str:
        """FLOW/NAME, as Prefect's commands take it."""
        return f"{self.flow.name}/{self.name}"


def name_deployment(spec: Path, name: str | None) -> str:
    """The given name, or that of the spec's file; raises `UserError` for one that Prefect refuses."""
    found = spec.stem if name is None else name
    if not found.strip() or any(letter in REFUSED or not letter.isprintable() for letter in found):
        raise UserError(
            f"--name: {show_value(found)} is no name of a deployment; leave out {' '.join(REFUSED)}"
        )
    return found


def make_wanted(spec: Path, options: Options, *, kind: Kind, pool: str, server: str) -> Wanted:
    """Make what `cmrm deploy` should put on the server at the URL `server`.

    Raises `UserError` for a spec or options that cannot be.
    """
    if is_standard_input(spec):
        raise UserError(
            "deploy: the spec is read again at each run, so it cannot be standard input; name a file."
        )
    if options.notify and kind != "watch":
        raise UserError("--notify: only a watch finds out whether safety regressed; give --watch too.")
    if options.limit is not None and kind == "watch":
        raise UserError("--limit: a watch takes no limit; set limit in the data sets of the spec.")
    for kind_of_sink in options.log_to:
        SINKS.find(kind_of_sink)
    read = read_spec(spec)
    model = _place_model(options.model)
    check_choice(options.workers, server=server)
    _check(read, spec, options, model=model)
    flow = FLOWS[kind]
    found = _find_flow(flow)
    parameters = {
        "spec": read.model_dump(mode="json", by_alias=True) if options.embed else str(spec.resolve()),
        "store": _place_store(options.store),
        "model": model,
        "workers": options.workers,
        "limit": options.limit,
        "log_to": [*options.log_to] or None,
    }
    given = {name: value for name, value in parameters.items() if value is not None}
    return Wanted(
        flow=flow,
        name=name_deployment(spec, options.name),
        pool=pool,
        parameters=given,
        schema=parameter_schema(found).model_dump_for_openapi(),
        schedule=_read_cron(options.cron, options.timezone),
        tags=tuple(dict.fromkeys([TAG, *options.tags])),
        job_variables=_read_job_variables(options.job_variables),
        at_once=1 if kind == "watch" else None,
        notify=tuple(dict.fromkeys(options.notify)),
        version=version("cmrm"),
    )


def _find_flow(flow: _Deployed) -> Flow[..., Any]:
    module, _, name = flow.entrypoint.rpartition(".")
    found: Flow[..., Any] = getattr(import_module(module), name)
    return found


def _check(read: Spec, spec: Path, options: Options, *, model: str | None) -> None:
    """Raise `UserError` for options that a run would refuse, or that hold a secret, and be kept."""
    for option, text in (
        ("--workers", options.workers),
        ("--store", options.store),
        ("--model", options.model),
    ):
        if text is not None:
            refuse_credentials(text, where=option, fix="leave it out")
            if secret := find_secret({option.strip("-"): text}):
                raise UserError(f"--{secret}")
            check_placeholders(text, where=option)
    if model is not None and not list_variables(model):
        replace_model(read, model, folder=spec.resolve().parent)
    elif model is not None and read.model is None:
        raise UserError(
            "--model: the spec has several models (models:); --model replaces the one given as model:."
        )


def _place_store(store: str | None) -> str | None:
    """The store as a worker finds it, whose own folder is a temporary one."""
    return store if store is None or list_variables(store) else Store.open(store).url


def _place_model(model: str | None) -> str | None:
    """The model as a worker finds it: a folder here by its whole path, all else as it is given."""
    if model is None or list_variables(model):
        return model
    folder = Path.cwd() / expand_home(model, field="--model")
    return str(folder) if is_folder(folder) else model


def _read_cron(cron: str | None, timezone: str | None) -> CronSchedule | None:
    if cron is None:
        if timezone is not None:
            raise UserError("--timezone: it is that of a schedule; give --cron too.")
        return None
    try:
        return CronSchedule(cron=cron, timezone=timezone or "UTC")
    except ValidationError as error:
        field = error.errors()[0]["loc"][0]
        raise UserError(
            f"--{field}: {show_value(cron if field == 'cron' else timezone)} is none; a schedule is five fields "
            "such as '17 3 * * *' (each night at 03:17), a time zone one such as Europe/Berlin."
        ) from None


def _read_job_variables(given: Sequence[str]) -> dict[str, Any]:
    """Read NAME=VALUE, where a value that is JSON is taken as such; `env` is added to ours."""
    variables: dict[str, Any] = {}
    for one in given:
        name, equals, text = one.partition("=")
        if not equals or not name:
            raise UserError(
                f"--job-variable: {show_value(one)} has no name; give NAME=VALUE, such as image=cmrm:0.1.0."
            )
        try:
            variables[name] = json.loads(text)
        except ValueError:
            variables[name] = text
    env = variables.get("env", {})
    if not isinstance(env, dict):
        raise UserError("--job-variable: env takes a JSON object of variables.")
    if secret := find_secret({"--job-variable": variables}):
        raise UserError(
            f"{secret}, since Prefect's database keeps job variables. Set it where the worker runs."
        )
    return {**variables, "env": {**ENVIRONMENT, **env}}
