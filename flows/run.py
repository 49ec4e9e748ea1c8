"""One run from spec to report: reach the Prefect server, run the pipeline, write the run record and the report."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redacting
from flows.pipeline import Outcome, run_pipeline
from flows.plan.image_folders import find_run_images
from flows.plan.judge import check_judges
from flows.plan.plan import Plan, make_plan
from flows.process import collect_as_usual
from flows.report.file_names import find_report_file, shorten_url
from flows.server.client import Ready, find_server, quiet_prefect, reach_server, translate_server_errors
from flows.spec.organism import place_organism
from flows.spec.spec import Spec
from flows.stages import Stages, WorkLeftError, look_up_stages, run_stages
from flows.workers.base import Workers, check_choice, choose_workers
from storage.backends.checksum import forget_found_whole
from storage.errors import StoreError
from storage.liveness.heartbeat import FIELD as HEARTBEAT
from storage.liveness.heartbeat import RENEWAL_SECONDS, keep_heartbeat
from storage.liveness.lease import wait_for_lease
from storage.liveness.processes import describe_process
from storage.records.hashing import digest
from storage.records.manifest import StoredFile
from storage.records.run_record import report_files
from storage.store import Store
from tasks.core.stage_name import StageName

if TYPE_CHECKING:
    from tasks.core.stage import Stage
    from tasks.judge.loaded import JudgeUse
    from tasks.report.summary import Summary

log = logging.getLogger("cmrm.flows")

# Stages that load no model when they run on the CPU; no later stage loads one either.
WITHOUT_MODEL = {StageName.IMPORT_ANSWERS, StageName.JUDGE, StageName.JUDGE_TEXTS, StageName.REPORT}
# Longest title in a flow run's name, in characters.
MOST_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run: its id, its summary, and the path of its report."""

    run_id: str
    summary: Summary
    report: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """Work of a run: its title, its run record, and the function that runs its stages.

    `store` is a URL: Prefect records the parameters of a flow, and an opened store may hold a connection's credentials.
    """

    store: str
    title: str
    record: Mapping[str, Any]
    do: Callable[[Stages], Outcome]


def run_spec(spec: Spec, *, store: str, server: str | None = None, workers: str = "auto") -> Result:
    """Run a spec with the Prefect server at `server`, the configured one, or an embedded one.

    If every job is committed and no server is named, no server is started and Prefect is not imported.
    `workers` is as for `choose_workers`. Raises `UserError` or `StoreError` for what the user can fix.
    """
    quiet_prefect()
    forget_found_whole()
    server = find_server(server)
    check_choice(workers, server=server)
    opened = Store.open(store)
    # A store without a report has no finished run, so there is work: start the server during planning.
    has_report = server is None and opened.manifest_files(StageName.REPORT)
    ready = None if has_report else reach_server(server)
    plan = make_plan(place_organism(spec), store=opened)
    wanted = (device for model in spec.list_loaded() for device in model.wanted_devices)
    devices = name_devices(wanted, spec.judges)
    _check_judges(plan)
    choose = partial(choose_workers, workers, devices=devices, server=server)
    return do_recorded(_describe(plan), choose, store=opened, server=server, ready=ready)


def name_devices(models: Iterable[str], judges: Iterable[JudgeUse]) -> set[str]:
    """List the devices that the models and the judges with a model ask for; auto if none does."""
    return {*models, *(judge.device for judge in judges if judge.place == "devices")} or {"auto"}


def find_store(spec: Spec, store: str | None) -> str:
    """Find the store of a run on a deployment's worker, as it was named; raises `UserError` if nothing names one."""
    named = store or os.environ.get("CMRM_STORE") or spec.store
    if named is None:
        raise UserError(
            "store: none is named, and a worker's folder is deleted with its flow run. Give the deployment the "
            "parameter store, the worker the variable CMRM_STORE, or the spec a field store."
        )
    return named


def do_recorded(
    work: Work,
    choose: Callable[[], Workers],
    *,
    store: Store,
    server: str | None,
    ready: Ready | None = None,
) -> Result:
    """Run some work as a new run, or confirm the earlier run with the same spec and result.

    `store` is the work's, opened. Give `ready` if a server is being started already; without it, committed results are
    looked up first.
    """
    # Two runs may start within one second; neither may overwrite the other's record.
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"
    if ready is None:
        found = _look_up(work, store)
        if isinstance(found, Outcome):
            return _finish(store, work, run_id, found)
        import_model_code = found.place != "processor" or found.name not in WITHOUT_MODEL
        ready = reach_server(server)
    else:
        import_model_code = not store.manifest_files(StageName.GENERATE)
    if import_model_code:
        # Import torch and transformers while the server starts; both take about as long.
        import_module("cmrm.models.loading")
    with ready(), translate_server_errors():
        flow = make_flow(work, run_id)
        collect_as_usual()
        return flow(work, run_id, choose)


def _look_up(work: Work, store: Store) -> Outcome | Stage[Any]:
    """Look up the outcome if every job is committed, else return the first stage with a missing job."""
    try:
        with look_up_stages(store) as stages:
            return work.do(stages)
    except WorkLeftError as error:
        return error.stage


def make_flow(work: Work, run_id: str) -> Callable[[Work, str, Callable[[], Workers]], Result]:
    """Make the Prefect flow of a run; its name holds the spec's title, the models and the run id."""
    from prefect import flow

    # Prefect formats braces in the name with the flow's parameters.
    name = work.title[:MOST_NAME].replace("{", "{{").replace("}", "}}")
    # Its parameters and result need no serialization: workers get jobs, and results are in the store.
    named = flow(
        name="cmrm",
        flow_run_name=f"{name} · {run_id}",
        validate_parameters=False,
        persist_result=False,
    )
    return named(_run_recorded)


def title_run(spec: Spec, models: Iterable[Mapping[str, Any]]) -> str:
    """Name a run in Prefect: the spec's title, and the models."""
    return ", ".join(filter(None, (spec.title, *(model["name"] for model in models))))


def describe_run(
    spec: Spec,
    models: Sequence[Mapping[str, Any]],
    judges: Iterable[JudgeUse],
    backbones: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The initial fields of a run's record; only runs that agree in them can be the same run."""
    return {
        **({"backbones": list(backbones)} if backbones else {}),
        "model": ", ".join(model["name"] for model in models),
        "models": list(models),
        "judges": [judge.to_json() for judge in judges],
        "spec": spec.model_dump(mode="json", by_alias=True),
    }


def _check_judges(plan: Plan) -> None:
    """Raise `UserError` for a judge whose requirements are missing, unless the same run has finished before."""
    record = {**_describe(plan).record, "status": "finished"}
    check_judges(plan.judges, lambda _judge: _find_same(plan.store, record) is None)


def _describe(plan: Plan) -> Work:
    def do(stages: Stages) -> Outcome:
        return run_pipeline(plan, stages)

    models = [model.describe() for model in plan.models]
    captioner = {} if plan.captioner is None else {"captioner": plan.captioner.describe()}
    return Work(
        store=plan.store.url,
        title=title_run(plan.spec, models),
        record={
            **describe_run(plan.spec, models, plan.judges, plan.judging.backbones),
            **captioner,
        },
        do=do,
    )


@redacting
def _run_recorded(work: Work, run_id: str, choose: Callable[[], Workers]) -> Result:
    from prefect.runtime import flow_run

    from flows.server.artifacts import show_result
    from flows.server.dead_runs import FIELD, crash_dead_runs

    store = Store.create(work.store)
    begun = {
        **work.record,
        "status": "running",
        "process": describe_process(),
        HEARTBEAT: RENEWAL_SECONDS,
        FIELD: flow_run.id,
    }
    with keep_heartbeat(store, run_id):
        store.write_run(run_id, begun)
        try:
            crash_dead_runs(store)
            with run_stages(choose(), store) as stages:
                outcome = work.do(stages)
            result = _finish(store, work, run_id, outcome)
        except BaseException as error:
            # A failing store may reject this write too; the original error is the one to report.
            with suppress(StoreError):
                store.write_run(run_id, {**work.record, "status": "failed", "error": type(error).__name__})
            raise
        if result.run_id != run_id:
            store.forget_run(run_id)
    show_result(result.summary, report=result.report)
    return result


def _finish(store: Store, work: Work, run_id: str, outcome: Outcome) -> Result:
    """Record a finished run under `run_id`, or confirm the earlier run with the same result."""
    from tasks.report.summary import read_summary

    summary = read_summary(store, outcome.report)
    finished = {**work.record, "status": "finished", "keys": list(outcome.keys)}
    run = _find_same(store, finished) or _record_once(store, run_id, finished, outcome, summary)
    if run["run_id"] != run_id:
        run = _confirm(store, run, outcome, summary)
    report = f"{shorten_url(store.url)}/{find_report_file(run['run_id'])}"
    return Result(run_id=str(run["run_id"]), summary=summary, report=report)


def _find_same(store: Store, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Find the first run whose record agrees in every given field."""
    return next(
        (run for run in store.runs() if all(run.get(name) == value for name, value in record.items())), None
    )


def _record_once(
    store: Store, run_id: str, record: Mapping[str, Any], outcome: Outcome, summary: Summary
) -> dict[str, Any]:
    """Record a run; return the earlier record if another process has finished the same run meanwhile."""
    with wait_for_lease(store, digest(record)):
        if (earlier := _find_same(store, record)) is not None:
            return earlier
        files = [
            asdict(file) for file in _write_report(store, {**record, "run_id": run_id}, outcome, summary)
        ]
        store.write_run(run_id, {**record, "summary": summary.to_json(), "files": files})
    return store.read_run(run_id)


def _confirm(store: Store, run: Mapping[str, Any], outcome: Outcome, summary: Summary) -> dict[str, Any]:
    """Reuse an earlier run for this one: rewrite its report if damaged, and record when it was confirmed."""
    files = report_files(run)
    faults = [fault for file in files if (fault := store.find_fault(file))]
    if faults or not files:
        log.warning("rewriting the report of run %s: %s", run["run_id"], "; ".join(faults))
        files = _write_report(store, run, outcome, summary)
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    store.write_run(
        str(run["run_id"]), {**run, "files": [asdict(file) for file in files], "confirmed_at": now}
    )
    return store.read_run(str(run["run_id"]))


def rewrite_report(store: Store, name: str) -> str:
    """Write the report of a finished run again from what the store has of it, and return its path.

    `name` is a run's id or `latest`. Raises `UserError` or `StoreError` if a result that it shows is missing.
    """
    from tasks.compare.finished_runs import find_finished, find_report
    from tasks.report.summary import read_summary

    run = find_finished(store, name)
    outcome = Outcome(report=find_report(store, run, stages=tuple(StageName)), keys=tuple(run["keys"]))
    files = _write_report(store, run, outcome, read_summary(store, outcome.report))
    store.write_run(str(run["run_id"]), {**run, "files": [asdict(file) for file in files]})
    return f"{shorten_url(store.url)}/{find_report_file(run['run_id'])}"


def _write_report(
    store: Store, run: Mapping[str, Any], outcome: Outcome, summary: Summary
) -> list[StoredFile]:
    from flows.report.files import write_report_files

    return write_report_files(
        store,
        run_id=str(run["run_id"]),
        report=outcome.report,
        summary=summary,
        keys=outcome.keys,
        store_name=shorten_url(store.url),
        images=find_run_images(store, run, run["spec"]["datasets"]),
    )
