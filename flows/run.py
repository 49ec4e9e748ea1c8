"""One run from spec to report: Prefect made quiet, the pipeline run, the record and the report written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from cmrm.errors import UserError
from flows.judge_plan import check_judges
from flows.organism import place_organism
from flows.pipeline import Outcome, run_pipeline
from flows.plan import Plan, make_plan
from flows.process import collect_as_usual
from flows.server.client import Ready, find_server, quiet_prefect, reach_server, told_of_a_lost_server
from flows.spec import Spec
from flows.stages import Stages, WorkLeftError, look_up_stages, run_stages
from flows.workers import Workers, check_choice, choose_workers
from storage.errors import StoreError
from storage.inventory import report_files
from storage.manifest import StoredFile
from storage.processes import describe_process
from storage.store import Store
from storage.whole import forget_found_whole

if TYPE_CHECKING:
    from tasks.judges import JudgeUse
    from tasks.stage import Stage

log = logging.getLogger("cmrm.flows")

# Stages that need no model where they are done by the processor, and after which none is loaded.
WITHOUT_MODEL = {"judge", "report"}
# Characters of a flow run's name that say what is run.
MOST_NAME = 120


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run: its id, its summary, and where its report lies."""

    run_id: str
    summary: dict[str, Any]
    report: str


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run does: its title for people, what it is recorded as, and how it goes through its stages."""

    store: str
    title: str
    record: Mapping[str, Any]
    do: Callable[[Stages], Outcome]


def run_spec(spec: Spec, *, store: str, server: str | None = None, workers: str = "auto") -> Result:
    """Run a spec with the Prefect server at `server`, the one the user has set up, or an embedded one.

    Where all of it is committed and no server is named, there is none, and Prefect is not imported.
    `workers` says who does the jobs (`choose_workers`). Raises `UserError` or `StoreError` for what the user can mend.
    """
    quiet_prefect()
    forget_found_whole()
    server = find_server(server)
    check_choice(workers, server=server)
    # A store without a report has no finished run: there is work, and its server starts beside the planning.
    ready = None if server is None and Store.open(store).manifest_files("report") else reach_server(server)
    plan = make_plan(place_organism(spec), store=store)
    devices = name_devices((model.wanted_device for model in spec.all_models()), spec.judges)
    _check_judges(plan)
    choose = partial(choose_workers, workers, devices=devices, server=server)
    return do_recorded(_describe(plan), choose, server=server, ready=ready)


def name_devices(models: Iterable[str], judges: Iterable[JudgeUse]) -> set[str]:
    """The devices that models ask for, and those of the judges that hold one; auto where none does."""
    return {*models, *(judge.device for judge in judges if judge.place == "devices")} or {"auto"}


def find_store(spec: Spec, store: str | None) -> str:
    """The store of a run that a worker does, as a URL; raises `UserError` where nothing names one."""
    place = store or os.environ.get("CMRM_STORE") or spec.store
    if place is None:
        raise UserError(
            "store: nothing names one, and a worker's folder goes with its flow run. Give the deployment the "
            "parameter store, the worker the variable CMRM_STORE, or the spec a field store."
        )
    return Store.open(place).url


def do_recorded(
    work: Work, choose: Callable[[], Workers], *, server: str | None, ready: Ready | None = None
) -> Result:
    """Do some work as a run of its own, or as the earlier run that came to the same from the same spec.

    `ready` is given where a server was reached for already; without it, what is committed is only looked up.
    """
    # Two people may start within one second; neither may write over the other's record.
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"
    if ready is None:
        found = _look_up(work)
        if isinstance(found, Outcome):
            return _finish(Store.open(work.store), work, run_id, found)
        import_model_code = found.place != "processor" or found.name not in WITHOUT_MODEL
        ready = reach_server(server)
    else:
        import_model_code = not Store.open(work.store).manifest_files("generate")
    if import_model_code:
        # torch and transformers take as long as the server does, and start beside it.
        import_module("cmrm.loading")
    with ready(), told_of_a_lost_server():
        flow = make_flow(work, run_id)
        collect_as_usual()
        return flow(work, run_id, choose)


def _look_up(work: Work) -> Outcome | Stage[Any]:
    """What the work comes to if all of it is committed, else the first stage with something left to do."""
    try:
        with look_up_stages() as stages:
            return work.do(stages)
    except WorkLeftError as error:
        return error.stage


def make_flow(work: Work, run_id: str) -> Callable[[Work, str, Callable[[], Workers]], Result]:
    """The Prefect flow of a run, named for people: what is run, on which models, and the run's id."""
    from prefect import flow

    # Prefect fills in braces, with whatever the parameters hold.
    name = work.title[:MOST_NAME].replace("{", "{{").replace("}", "}}")
    # Nothing of it needs to travel: a worker is given jobs, and what a run made is in the store.
    named = flow(
        name="cmrm",
        flow_run_name=f"{name} · {run_id}",
        validate_parameters=False,
        persist_result=False,
    )
    return named(_run_recorded)


def title_run(spec: Spec, models: Iterable[Mapping[str, Any]]) -> str:
    """What a run is called in Prefect: the spec's title, and the models."""
    return ", ".join(filter(None, (spec.title, *(model["name"] for model in models))))


def describe_run(
    spec: Spec, models: Sequence[Mapping[str, Any]], judges: Iterable[JudgeUse]
) -> dict[str, Any]:
    """What a run's record says of it from the start; runs of which it is the same may be one."""
    return {
        "model": ", ".join(model["name"] for model in models),
        "models": list(models),
        "judges": [judge.to_json() for judge in judges],
        "spec": spec.model_dump(mode="json", by_alias=True),
    }


def _check_judges(plan: Plan) -> None:
    """Raise `UserError` for a judge that lacks what it needs, unless the same run has been finished before."""
    record = {**_describe(plan).record, "status": "finished"}
    check_judges(plan.judges, lambda _judge: _find_same(Store.open(plan.store), record) is None)


def _describe(plan: Plan) -> Work:
    def do(stages: Stages) -> Outcome:
        return run_pipeline(plan, stages)

    models = [model.describe() for model in plan.models]
    return Work(
        store=plan.store,
        title=title_run(plan.spec, models),
        record=describe_run(plan.spec, models, plan.judges),
        do=do,
    )


def _run_recorded(work: Work, run_id: str, choose: Callable[[], Workers]) -> Result:
    from flows.server.artifacts import show_result

    store = Store.create(work.store)
    store.write_run(run_id, {**work.record, "status": "running", "process": describe_process()})
    try:
        with run_stages(choose()) as stages:
            outcome = work.do(stages)
        result = _finish(store, work, run_id, outcome)
    except BaseException as error:
        # What stopped the run may keep this from being written too, and is what there is to be told.
        with suppress(StoreError):
            store.write_run(run_id, {**work.record, "status": "failed", "error": type(error).__name__})
        raise
    if result.run_id != run_id:
        store.forget_run(run_id)
    show_result(result.summary, report=result.report)
    return result


def _finish(store: Store, work: Work, run_id: str, outcome: Outcome) -> Result:
    """Record a finished run under `run_id`, or confirm the earlier run that came to the same."""
    finished = {**work.record, "status": "finished", "keys": list(outcome.keys)}
    run = _find_same(store, finished) or _record_new(store, run_id, finished, outcome)
    if run["run_id"] != run_id:
        run = _confirm(store, run, outcome)
    report = f"{_shorten(store.url)}/{report_files(run)[-1].path}"
    return Result(run_id=str(run["run_id"]), summary=run["summary"], report=report)


def _find_same(store: Store, record: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first run that came to the same from the same spec."""
    return next(
        (run for run in store.runs() if all(run.get(name) == value for name, value in record.items())), None
    )


def _record_new(store: Store, run_id: str, record: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Record a run; where another process recorded the same meanwhile, the earlier of the two."""
    from flows.report_files import read_summary

    files = [asdict(file) for file in _write_report(store, run_id, outcome)]
    store.write_run(run_id, {**record, "summary": read_summary(store, outcome.report), "files": files})
    return _find_same(store, record) or store.read_run(run_id)


def _confirm(store: Store, run: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
    """Let an earlier run stand for this one: its report is made whole, and its record says when it was confirmed."""
    files = report_files(run)
    faults = [fault for file in files if (fault := store.find_fault(file))]
    if faults or not files:
        log.warning("the report of run %s is written again: %s", run["run_id"], "; ".join(faults))
        files = _write_report(store, str(run["run_id"]), outcome)
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    store.write_run(
        str(run["run_id"]), {**run, "files": [asdict(file) for file in files], "confirmed_at": now}
    )
    return store.read_run(str(run["run_id"]))


def _write_report(store: Store, run_id: str, outcome: Outcome) -> list[StoredFile]:
    from flows.report_files import write_report_files

    return write_report_files(
        store, run_id=run_id, report=outcome.report, keys=outcome.keys, store_name=_shorten(store.url)
    )


def _shorten(store: str) -> str:
    """A store as its owner would write it: relative where it lies below the working directory."""
    path = Path(store)
    return (
        str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else store
    )
