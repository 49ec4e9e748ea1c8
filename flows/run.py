"""One run from spec to report: Prefect made quiet, the pipeline run, the record and the report written."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from flows.organism import place_organism
from flows.spec import Spec
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
        "spec": plan.spec.model_dump(mode="json", by_alias=True),
    }
    store.write_run(run_id, {**record, "status": "running"})
    try:
        outcome = run_pipeline.with_options(flow_run_name=run_id)(plan)
    except BaseException as error:
        store.write_run(run_id, {**record, "status": "failed", "error": type(error).__name__})
        raise
    record |= {"status": "finished", "keys": list(outcome.keys)}
    return _confirm_earlier(store, run_id, record, outcome) or _record_new(store, run_id, record, outcome)


def _confirm_earlier(store: Store, run_id: str, record: dict[str, Any], outcome: Outcome) -> Result | None:
    """Let an earlier run that came to the same from the same spec stand for this one, its report made whole."""
    same = [run for run in store.runs() if all(run.get(name) == record[name] for name in record)]
    if not same:
        return None
    earlier = same[-1]
    files = [StoredFile(**file) for file in earlier["files"]]
    if faults := [fault for file in files if (fault := store.find_fault(file))]:
        log.warning("the report of run %s is written again: %s", earlier["run_id"], "; ".join(faults))
        files = _write_report(store, earlier["run_id"], outcome)
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    kept = {**earlier, "files": [asdict(file) for file in files], "confirmed_at": now}
    store.write_run(earlier["run_id"], kept)
    store.files.remove(run_file(run_id))
    return _make_result(store, earlier["run_id"], earlier["summary"], files)


def _record_new(store: Store, run_id: str, record: dict[str, Any], outcome: Outcome) -> Result:
    from flows.report_files import read_summary

    files = _write_report(store, run_id, outcome)
    summary = read_summary(store, outcome.report)
    store.write_run(run_id, {**record, "summary": summary, "files": [asdict(file) for file in files]})
    return _make_result(store, run_id, summary, files)


def _write_report(store: Store, run_id: str, outcome: Outcome) -> list[StoredFile]:
    from flows.report_files import write_report_files

    return write_report_files(
        store, run_id=run_id, report=outcome.report, keys=outcome.keys, store_name=_shorten(store.url)
    )


def _make_result(store: Store, run_id: str, summary: dict[str, Any], files: list[StoredFile]) -> Result:
    return Result(run_id=run_id, summary=summary, report=f"{_shorten(store.url)}/{files[-1].path}")


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
