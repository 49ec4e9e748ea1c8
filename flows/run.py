"""One run from spec to report: Prefect made quiet, the pipeline run, the record and the report written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flows.organism import place_organism
from flows.spec import Spec
from storage.errors import StoreError
from storage.inventory import report_files
from storage.manifest import StoredFile
from storage.paths import cache_folder
from storage.store import Store, run_file

if TYPE_CHECKING:
    from flows.pipeline import Outcome
    from flows.plan import Plan

log = logging.getLogger("cmrm.flows")

# Prefect's own lines would break the bars; they still reach its log files and its API. What a user has set stays.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """A finished run: its id, its summary, and where its report lies."""

    run_id: str
    summary: dict[str, Any]
    report: str


def run_spec(spec: Spec, *, store: str, server: str | None = None) -> Result:
    """Run a spec with the Prefect server at `server`, the one the user has set up, or an embedded one.

    Raises `UserError` or `StoreError` for what the user can mend.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    server_ready = _reach_server(server)
    from flows.plan import make_plan

    plan = make_plan(place_organism(spec), store=store)
    # Two people may start within one second; neither may write over the other's record.
    run_id = f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{uuid4().hex[:6]}"
    if next(Store.open(plan.store).manifests("generate"), None) is None:
        # A first run needs torch and transformers; they are imported while the server starts.
        import_module("cmrm.model")
    with server_ready():
        return _run_recorded(plan, run_id)


def _run_recorded(plan: Plan, run_id: str) -> Result:
    from flows.pipeline import run_pipeline

    store = Store.create(plan.store)
    record = {
        "model": ", ".join(model.name for model in plan.models),
        "models": [model.describe() for model in plan.models],
        "spec": plan.spec.model_dump(mode="json", by_alias=True),
    }
    store.write_run(run_id, {**record, "status": "running"})
    try:
        outcome = run_pipeline.with_options(flow_run_name=run_id)(plan)
        finished = record | {"status": "finished", "keys": list(outcome.keys)}
        run = _find_same(store, finished) or _record_new(store, run_id, finished, outcome)
    except BaseException as error:
        # What stopped the run may keep this from being written too, and is what there is to be told.
        with suppress(StoreError):
            store.write_run(run_id, {**record, "status": "failed", "error": type(error).__name__})
        raise
    if run["run_id"] != run_id:
        run = _confirm(store, run, outcome)
        _forget(store, run_id)
    files = report_files(run)
    report = f"{_shorten(store.url)}/{files[-1].path}"
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


def _forget(store: Store, run_id: str) -> None:
    store.files.remove(run_file(run_id))
    for path in store.files.under(f"reports/{run_id}"):
        store.files.remove(path)


def _write_report(store: Store, run_id: str, outcome: Outcome) -> list[StoredFile]:
    from flows.report_files import write_report_files

    return write_report_files(
        store, run_id=run_id, report=outcome.report, keys=outcome.keys, store_name=_shorten(store.url)
    )


def _reach_server(server: str | None) -> Callable[[], AbstractContextManager[None]]:
    """Start towards a Prefect API at once; what is returned waits for it and puts it in force."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import EmbeddedServer, check_server

    chosen = server or PREFECT_API_URL.value()
    embedded = None if chosen else EmbeddedServer(log=cache_folder() / "prefect-server.log")
    if embedded is not None:
        embedded.start()
    else:
        check_server(chosen)

    @contextmanager
    def ready() -> Iterator[None]:
        if embedded is not None:
            embedded.wait()
        with temporary_settings({PREFECT_API_URL: embedded.url if embedded else chosen}):
            yield

    return ready


def _shorten(store: str) -> str:
    """A store as its owner would write it: relative where it lies below the working directory."""
    path = Path(store)
    return (
        str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else store
    )
