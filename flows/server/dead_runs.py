"""Mark Prefect flow and task runs as crashed if the process of their run is gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Crashed

from storage.liveness.heartbeat import close_dead_run, find_dead_runs
from storage.store import Store

log = logging.getLogger("cmrm.flows")

AnyRun = TypeVar("AnyRun", FlowRun, TaskRun)

# Field of a run record with the id of its Prefect flow run.
FIELD = "flow_run"
# Parent flows of this project, in whose process a run is a subflow.
PARENT_FLOWS = {"cmrm-watch", "cmrm-run"}
UNFINISHED = [
    StateType.SCHEDULED,
    StateType.PENDING,
    StateType.RUNNING,
    StateType.PAUSED,
    StateType.CANCELLING,
]
NOT_STARTED = [StateType.SCHEDULED, StateType.PENDING]
# Page size of the server's API.
PAGE = 200


def crash_dead_runs(store: Store) -> None:
    """Mark the flow runs of a store's dead runs as crashed in Prefect, and their records as killed.

    Flow runs unknown to this server and rejected requests are logged and skipped. Raises `StoreError` if the store
    fails.
    """
    dead = {UUID(run[FIELD]): run for run in find_dead_runs(store, store.runs()) if FIELD in run}
    if not dead:
        return
    try:
        with get_client(sync_client=True) as client:
            flow_runs = _read_flow_runs(client, dead)
            for flow_run in flow_runs:
                run = dead[flow_run.id]
                _crash(client, flow_run, _explain(store, run))
                close_dead_run(store, run)
    except (httpx.HTTPError, PrefectException) as error:
        log.warning("the Prefect server did not mark dead runs of %s as crashed: %s", store.url, error)
        return
    if unknown := len(dead) - len(flow_runs):
        log.info("%d dead runs of %s are unknown to this Prefect server", unknown, store.url)


def _explain(store: Store, run: Mapping[str, Any]) -> str:
    process = run.get("process") or {}
    return (
        f"The process of run {run['run_id']} in {store.url} is gone: process {process.get('pid')} on "
        f"{process.get('host')}. The same command resumes it."
    )


def _read_flow_runs(client: SyncPrefectClient, ids: Iterable[UUID]) -> list[FlowRun]:
    wanted = list(ids)
    return [
        one
        for start in range(0, len(wanted), PAGE)
        for one in client.read_flow_runs(
            flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=wanted[start : start + PAGE]))
        )
    ]


def _crash(client: SyncPrefectClient, flow_run: FlowRun, why: str) -> None:
    """Mark a flow run, its task runs and its parent flow as crashed; cancel its flow runs that no worker started."""
    for unstarted in _list_unstarted(client, flow_run.id):
        client.set_flow_run_state(unstarted.id, Cancelled(message=why))
    for task_run in _list_task_runs(client, flow_run.id):
        client.set_task_run_state(task_run.id, Crashed(message=why), force=True)
    if flow_run.state is None or not flow_run.state.is_final():
        client.set_flow_run_state(flow_run.id, Crashed(message=why), force=True)
        log.info("Prefect's flow run %s is marked as crashed: %s", flow_run.name, why)
    parent = _find_parent(client, flow_run)
    if parent is not None:
        _crash(client, parent, why)


def _list_unstarted(client: SyncPrefectClient, parent: UUID) -> list[FlowRun]:
    """List deployment flow runs that a run submitted jobs to and that no worker has started."""
    of_parent = FlowRunFilter(
        parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[parent]),
        state=FlowRunFilterState(type=FlowRunFilterStateType(any_=NOT_STARTED)),
    )
    found = _read_pages(partial(client.read_flow_runs, flow_run_filter=of_parent))
    return [one for one in found if one.deployment_id is not None]


def _list_task_runs(client: SyncPrefectClient, parent: UUID) -> list[TaskRun]:
    of_parent = TaskRunFilter(
        flow_run_id=TaskRunFilterFlowRunId(any_=[parent]),
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=UNFINISHED)),
    )
    return _read_pages(partial(client.read_task_runs, task_run_filter=of_parent))


def _read_pages(read: Callable[..., list[AnyRun]]) -> list[AnyRun]:
    """Read all pages of a query before changing any state, since that would shift the pages."""
    found: list[AnyRun] = []
    while page := read(limit=PAGE, offset=len(found)):
        found += page
    return found


def _find_parent(client: SyncPrefectClient, flow_run: FlowRun) -> FlowRun | None:
    """Find the parent flow run of this project in the same process, such as a watch.

    None for a deployment's flow run: its worker or an automation handles crashes, and may have restarted it.
    """
    if flow_run.parent_task_run_id is None:
        return None
    try:
        parent_id = client.read_task_run(flow_run.parent_task_run_id).flow_run_id
        parent = None if parent_id is None else client.read_flow_run(parent_id)
        if parent is None or parent.deployment_id is not None:
            return None
        return parent if client.read_flow(parent.flow_id).name in PARENT_FLOWS else None
    except ObjectNotFound:
        return None
