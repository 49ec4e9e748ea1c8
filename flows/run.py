"""One run from spec to report: Prefect made quiet, the pipeline run, the record and the report written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flows.organism import place_organism
from flows.spec import Spec
from storage.store import Store

if TYPE_CHECKING:
    from flows.pipeline import Outcome
    from flows.plan import Plan

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
    server_ready = _reach_server(store, server)
    from flows.plan import make_plan

    plan = make_plan(place_organism(spec, store=store), store=store)
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
        "spec": plan.spec.model_dump(mode="json", by_alias=True),
    }
    store.write_run(run_id, {**record, "status": "running"})
    try:
        outcome = run_pipeline.with_options(flow_run_name=run_id)(plan)
    except BaseException as error:
        store.write_run(run_id, {**record, "status": "failed", "error": type(error).__name__})
        raise
    result = _write_report(plan, run_id, outcome)
    finished = {"status": "finished", "keys": list(outcome.keys), "summary": result.summary}
    store.write_run(run_id, {**record, **finished})
    return result


def _write_report(plan: Plan, run_id: str, outcome: Outcome) -> Result:
    from flows.report_files import read_summary, write_report_files

    store = Store.open(plan.store)
    report = write_report_files(
        store, run_id=run_id, report=outcome.report, keys=outcome.keys, store_name=_shorten(plan.store)
    )
    summary = read_summary(store, outcome.report)
    return Result(run_id=run_id, summary=summary, report=f"{_shorten(plan.store)}/{report}")


def _reach_server(store: str, server: str | None) -> Callable[[], AbstractContextManager[None]]:
    """Start towards a Prefect API at once; what is returned waits for it and puts it in force."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import EmbeddedServer, check_server

    chosen = server or PREFECT_API_URL.value()
    embedded = None if chosen else EmbeddedServer(log=_choose_log(store))
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


def _choose_log(store: str) -> Path:
    if "://" not in store:
        return Path(store) / "logs" / "prefect-server.log"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cmrm" / "prefect-server.log"


def _shorten(store: str) -> str:
    """A store as its owner would write it: relative where it lies below the working directory."""
    path = Path(store)
    return (
        str(path.relative_to(Path.cwd())) if path.is_absolute() and path.is_relative_to(Path.cwd()) else store
    )
