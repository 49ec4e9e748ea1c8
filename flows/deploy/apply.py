"""Put a deployment on a Prefect server, bring it up to date, or take it away, and say what changes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from shlex import quote
from typing import Any
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import (
    DeploymentScheduleCreate,
    DeploymentUpdate,
    WorkPoolCreate,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.workers.process import ProcessWorker

from cmrm.errors import UserError
from cmrm.untrusted.printable import show, show_names, show_value
from flows.deploy.notices import find_automation, find_blocks, make_automation, name_blocks
from flows.deploy.wanted import Wanted

# The schedule that is ours; others, made by hand, stay as they are.
SLUG = "cmrm"
# Seconds that a flow run which holds the only place has to start.
GRACE = 600
# Fields of an automation that operators change on the server.
OPERATORS = {"id", "enabled", "tags", "owner_resource"}
NONE = "none"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One field of a deployment that differs; '' for what was or will be none."""

    field: str
    before: str
    after: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What of a deployment is on the server, and what would change there."""

    deployment: DeploymentResponse | None
    changes: Sequence[Change]


def check_pool(client: SyncPrefectClient, wanted: Wanted, *, server: str) -> None:
    """Raise `UserError` unless the server has the work pool, and the pool every job variable."""
    name = wanted.pool
    try:
        pool = client.read_work_pool(name)
    except ObjectNotFound:
        others = ", ".join(pool.name for pool in client.read_work_pools()) or NONE
        raise UserError(
            f"--pool: the Prefect server at {server} has no work pool {show(name)} (there: {show(others)}). Make it: "
            f"prefect work-pool create {quote(show(name))} --type process, or give --create-pool process."
        ) from None
    # A pool that no worker has begun to serve may have no template yet.
    known = pool.base_job_template.get("variables", {}).get("properties")
    for variable in wanted.job_variables if known else ():
        if variable not in known:
            raise UserError(
                f"--job-variable: the work pool {show(name)} has none named {show_value(variable)}; it has "
                f"{show_names(known)}."
            )


def create_process_pool(client: SyncPrefectClient, name: str) -> bool:
    """Create a work pool of the type process; False if there is a pool of that name."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        return True
    return False


def has_worker(client: SyncPrefectClient, pool: str) -> bool:
    """Whether a worker of the pool is online."""
    return any(one.status == "ONLINE" for one in client.read_workers_for_work_pool(pool))


def look_up(client: SyncPrefectClient, wanted: Wanted) -> Found:
    """Hold the server's deployment of the same name against the wanted one; nothing is changed."""
    blocks = find_blocks(client, wanted.notify)
    deployment = _read(client, wanted.full_name)
    automation = find_automation(client, wanted.full_name)
    after = _describe_wanted(wanted)
    before = {} if deployment is None else _describe(deployment, schema=wanted.schema)
    told = [] if automation is None else name_blocks(client, automation)
    before["notifies"] = ", ".join(told)
    after["notifies"] = ", ".join(wanted.notify)
    if (
        deployment is not None
        and automation is not None
        and blocks
        and before["notifies"] == after["notifies"]
    ):
        same = _is_same(automation, make_automation(wanted.full_name, deployment.id, blocks))
        before["automation"], after["automation"] = "" if same else "changed by hand", ""
    changes = [
        Change(field=field, before=before.get(field, ""), after=after.get(field, ""))
        for field in dict.fromkeys([*after, *before])
        if before.get(field, "") != after.get(field, "")
    ]
    return Found(deployment=deployment, changes=changes)


def apply(client: SyncPrefectClient, wanted: Wanted, found: Found) -> None:
    """Create the deployment with its automation, or bring both up to date.

    Raises `UserError` for values that the server refuses, such as a job variable of another type.
    """
    try:
        _apply(client, wanted, found)
    except PrefectHTTPStatusError as error:
        if error.response.status_code not in {HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY}:
            raise
        reason = error.response.json().get("detail", error)
        raise UserError(
            f"deploy: the Prefect server refuses {show(wanted.full_name)}: {show(reason)}"
        ) from error


def _apply(client: SyncPrefectClient, wanted: Wanted, found: Found) -> None:
    if found.deployment is None:
        deployment_id = _create(client, wanted)
    else:
        deployment_id = found.deployment.id
        _update(client, deployment_id, wanted)
        _update_schedule(client, found.deployment, wanted.schedule)
    _apply_automation(client, wanted, deployment_id)


def remove(client: SyncPrefectClient, full_name: str) -> list[str]:
    """Remove a deployment, its schedules and its automation; what was there, for people."""
    removed = []
    if (automation := find_automation(client, full_name)) is not None:
        client.delete_automation(automation.id)
        removed.append(f"automation {automation.name}")
    if (deployment := _read(client, full_name)) is not None:
        client.delete_deployment(deployment.id)
        removed.append(f"deployment {full_name}")
    return removed


def list_parts(client: SyncPrefectClient, full_name: str) -> list[str]:
    """List what `remove` would remove."""
    automation = find_automation(client, full_name)
    named = [] if automation is None else [f"automation {automation.name}"]
    return [*named, *([f"deployment {full_name}"] if _read(client, full_name) is not None else [])]


def _read(client: SyncPrefectClient, full_name: str) -> DeploymentResponse | None:
    try:
        return client.read_deployment_by_name(full_name)
    except ObjectNotFound:
        return None


def _create(client: SyncPrefectClient, wanted: Wanted) -> UUID:
    schedules = [] if wanted.schedule is None else [_schedule(wanted.schedule)]
    return client.create_deployment(
        client.create_flow_from_name(wanted.flow.name),
        wanted.name,
        description=wanted.flow.does,
        work_pool_name=wanted.pool,
        entrypoint=wanted.flow.entrypoint,
        schedules=schedules,
        pull_steps=[],
        enforce_parameter_schema=True,
        **_common(wanted),
        parameter_openapi_schema=dict(wanted.schema),
    )


def _update(client: SyncPrefectClient, deployment_id: UUID, wanted: Wanted) -> None:
    client.update_deployment(
        deployment_id,
        DeploymentUpdate(
            description=wanted.flow.does,
            work_pool_name=wanted.pool,
            entrypoint=wanted.flow.entrypoint,
            pull_steps=[],
            enforce_parameter_schema=True,
            **_common(wanted),
            parameter_openapi_schema=dict(wanted.schema),
        ),
    )


def _common(wanted: Wanted) -> dict[str, Any]:
    options = ConcurrencyOptions(
        collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW, grace_period_seconds=GRACE
    )
    return {
        "version": wanted.version,
        "parameters": dict(wanted.parameters),
        "tags": list(wanted.tags),
        "job_variables": dict(wanted.job_variables),
        "concurrency_limit": wanted.at_once,
        "concurrency_options": None if wanted.at_once is None else options,
    }


def _schedule(cron: CronSchedule) -> DeploymentScheduleCreate:
    return DeploymentScheduleCreate(schedule=cron, slug=SLUG)


def _update_schedule(
    client: SyncPrefectClient, deployment: DeploymentResponse, wanted: CronSchedule | None
) -> None:
    """Change the schedule in place, so that one that was paused stays so."""
    own = _find_schedule(deployment)
    if own is None and wanted is not None:
        client.create_deployment_schedules(deployment.id, [_schedule(wanted)])
    elif own is not None and wanted is None:
        client.delete_deployment_schedule(deployment.id, own.id)
    elif own is not None and wanted is not None and _write(own.schedule) != _write(wanted):
        client.update_deployment_schedule(deployment.id, own.id, schedule=wanted)


def _find_schedule(deployment: DeploymentResponse) -> DeploymentSchedule | None:
    return next((one for one in deployment.schedules if one.slug == SLUG), None)


def _apply_automation(client: SyncPrefectClient, wanted: Wanted, deployment_id: UUID) -> None:
    existing = find_automation(client, wanted.full_name)
    if not wanted.notify:
        if existing is not None:
            client.delete_automation(existing.id)
        return
    made = make_automation(wanted.full_name, deployment_id, find_blocks(client, wanted.notify))
    if existing is None:
        client.create_automation(made)
    elif not _is_same(existing, made):
        kept = made.model_copy(update={"enabled": existing.enabled, "tags": existing.tags})
        client.update_automation(existing.id, kept)


def _is_same(one: AutomationCore, other: AutomationCore) -> bool:
    return one.model_dump(mode="json", exclude=OPERATORS) == other.model_dump(mode="json", exclude=OPERATORS)


def _describe_wanted(wanted: Wanted) -> dict[str, str]:
    return _write_fields(
        pool=wanted.pool,
        entrypoint=wanted.flow.entrypoint,
        parameters=wanted.parameters,
        schedule=_write(wanted.schedule),
        tags=wanted.tags,
        job_variables=wanted.job_variables,
        at_once=wanted.at_once,
        version=wanted.version,
    )


def _describe(deployment: DeploymentResponse, *, schema: Mapping[str, Any]) -> dict[str, str]:
    own = _find_schedule(deployment)
    limit = deployment.global_concurrency_limit
    fields = _write_fields(
        pool=deployment.work_pool_name,
        entrypoint=deployment.entrypoint,
        parameters=deployment.parameters,
        schedule="" if own is None else _write(own.schedule),
        tags=deployment.tags,
        job_variables=deployment.job_variables,
        at_once=None if limit is None else limit.limit,
        version=deployment.version,
    )
    return (
        fields
        if deployment.parameter_openapi_schema == schema
        else {**fields, "schema": "of another release"}
    )


def _write_fields(
    *,
    pool: str | None,
    entrypoint: str | None,
    parameters: Mapping[str, Any],
    schedule: str,
    tags: Sequence[str],
    job_variables: Mapping[str, Any],
    at_once: int | None,
    version: str | None,
) -> dict[str, str]:
    """Write a deployment's fields as text for people, those without a value as ''."""
    return {
        "pool": pool or "",
        "flow": entrypoint or "",
        **{name: _write_value(value) for name, value in parameters.items()},
        "schedule": schedule,
        "tags": ", ".join(sorted(tags)),
        **{f"job variable {name}": _write_value(value) for name, value in _flatten(job_variables)},
        "at once": "" if at_once is None else f"{at_once}, the next is dropped",
        "release": version or "",
    }


def _flatten(job_variables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """List job variables by name, those of the environment one by one."""
    for name, value in sorted(job_variables.items()):
        if name == "env" and isinstance(value, Mapping):
            yield from ((f"env.{own}", text) for own, text in sorted(value.items()))
        else:
            yield name, value


def _write_value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)


def _write(schedule: Any) -> str:
    match schedule:
        case None:
            return ""
        case CronSchedule():
            return f"{schedule.cron} ({schedule.timezone or 'UTC'})"
        case _:
            return str(schedule)
