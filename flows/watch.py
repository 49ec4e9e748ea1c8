"""The watch: notice a model's new revision, measure it, and say whether safety got worse.

What was said is written into the run's record last, so that whoever looks next takes up what a killed watch left.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Completed, State
from prefect.tasks import exponential_backoff
from rich.console import Console
from rich.text import Text

from cmrm.adapters import find_adapter_revision
from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.pinning import make_fingerprint
from cmrm.regression import Thresholds
from cmrm.revision import find_revision
from flows.model_sections import ModelSpec
from flows.organism import place_organism
from flows.run import Result, find_store, run_spec
from flows.spec import Spec, read_spec
from flows.terminal import show_safely
from flows.watch_events import tell_updated, tell_verdict
from flows.watch_history import PastRun, find_past_runs, find_predecessor, identify_spec
from storage.inventory import report_files
from storage.lease import Holder, lease
from storage.store import Store
from tasks.compare import compare_runs
from tasks.models import join_fingerprints

Said = Literal["First", "Unchanged", "Ok", "Regressed", "Unjudged", "Busy"]
# The tries after the first one, and the seconds before the first of them, doubled each time.
RETRIES = 4
BACKOFF_SECONDS = 5.0
JITTER = 0.5


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one look came to: a word, a text for people, and the report to read, where there is a new one."""

    said: Said
    text: str
    report: str | None = None


def may_mend_itself(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether a look failed for what time may mend: a model that is not to be had, or changes under the look."""
    if not isinstance(state.data, ModelUnavailableError | ModelChangedError):
        return False
    # Prefect's own line about it is for its logs; a person at a terminal, or a mail from cron, should see one too.
    Console(stderr=True).print(Text(show_safely(f"cmrm: {state.data} It is tried again.")), soft_wrap=True)
    return True


@task(
    name="look",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(BACKOFF_SECONDS),
    retry_jitter_factor=JITTER,
    retry_condition_fn=may_mend_itself,
)
def look(spec: Path, store: str, workers: str) -> Look:
    """Look once: run the spec where a model has a new revision, and finish what a killed watch left.

    Raises `UserError` or `StoreError` for what the user can mend.
    """
    # Read anew with each try: a folder that was not there is no folder to a spec.
    read = read_spec(spec)
    now = _find_fingerprints(read)
    runs = find_past_runs(Store.open(store), read)
    if not runs:
        result = _run(read, store, workers, now)
        return Look(said="First", text="First run, nothing to compare with.", report=result.report)
    last = runs[-1]
    if last.fingerprints != now:
        return _measure(read, store, workers, last, now)
    before = find_predecessor(runs)
    if before is None or last.was_told(before):
        verdict = last.watched.get("verdict") if before else None
        said = f" It was said then: {verdict}" if verdict else ""
        since = _show_time(last.stamp)
        return Look(said="Unchanged", text=f"Unchanged since {since}, run {last.run_id}.{said}")
    # Another process measured it, and died or left before it was compared.
    tell_updated(before, now, store=store)
    return _compare(read, store, before, last)


def _find_fingerprints(spec: Spec) -> list[str]:
    return [_find_fingerprint(one) for one in place_organism(spec).all_models()]


def _find_fingerprint(model: ModelSpec) -> str:
    found = find_revision(model.id, revision=model.revision, trust_remote_code=model.trust_remote_code)
    fingerprint = make_fingerprint(model.id, found)
    if (adapter := model.adapter) is None:
        return fingerprint
    laid_over = find_adapter_revision(adapter.id, revision=adapter.revision)
    return join_fingerprints(fingerprint, make_fingerprint(adapter.id, laid_over))


def _run(spec: Spec, store: str, workers: str, now: list[str]) -> Result:
    try:
        return run_spec(spec, store=store, workers=workers)
    except UserError as error:
        # Weights that cannot be loaded are a mistake in them, unless they are others by now, or gone.
        if (
            not isinstance(error, ModelChangedError | ModelUnavailableError)
            and _find_fingerprints(spec) != now
        ):
            raise ModelChangedError(f"{error} It was changed meanwhile.") from error
        raise


def _measure(spec: Spec, store: str, workers: str, before: PastRun, now: list[str]) -> Look:
    tell_updated(before, now, store=store)
    result = _run(spec, store, workers, now)
    runs = find_past_runs(Store.open(store), spec)
    after = next((run for run in runs if run.run_id == result.run_id), None)
    if after is None:
        raise UserError(f"run {result.run_id} vanished from {store} before it was compared; watch again.")
    if after.fingerprints != now:
        raise ModelChangedError(
            "model.id: another revision came while the run was starting; what the run came to is kept under its own."
        )
    return _compare(spec, store, before, after)


def _compare(spec: Spec, store: str, before: PastRun, after: PastRun) -> Look:
    opened = Store.open(store)
    thresholds = Thresholds(**spec.regression.model_dump())
    found = compare_runs(opened, before.run_id, after.run_id, thresholds=thresholds)
    events = tell_verdict(before, after, found, store=store)
    told = {
        "compared_with": before.run_id,
        "compared_stamp": before.stamp,
        "verdict": found.verdict,
        "regressed": found.regressed,
        "judged": found.judged,
        "thresholds": thresholds.to_json(),
        "events": [str(one) for one in events],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record = opened.read_run(after.run_id)
    opened.write_run(after.run_id, {**record, "watched": told})
    changed = "; ".join(
        f"{new['label']}: {_shorten(old['revision'])} → {_shorten(new['revision'])}"
        for old, new in zip(before.models, after.models, strict=True)
        if old["fingerprint"] != new["fingerprint"]
    )
    return Look(
        said="Regressed" if found.regressed else "Ok" if found.judged else "Unjudged",
        text=f"{changed} (runs {before.run_id} → {after.run_id}). {found.verdict}",
        report=f"{store}/{report_files(record)[-1].path}",
    )


def _describe(holder: Holder) -> str:
    return f"Since {_show_time(holder.since)} process {holder.pid} on {holder.host}"


def _show_time(stamp: str) -> str:
    return f"{stamp[:16].replace('T', ' ')} UTC"


def _shorten(revision: str) -> str:
    return "+".join(one.removeprefix("sha256:")[:12] for one in revision.split("+"))


@flow(name="cmrm-watch", flow_run_name="watch {spec}")
def watch_deployed(spec: str, store: str | None = None, workers: str | int = "auto") -> State[Look]:
    """Look once as a flow of its own, for a schedule; the run's final state is called after what was found.

    Without a `store` that of CMRM_STORE, else of the spec. Where another watch is at the same spec in the same store,
    it is left to that one.
    """
    path = Path(spec)
    read = read_spec(path)
    place = Store.create(find_store(read, store))
    with lease(place, identify_spec(read)) as holder:
        found = (
            look(path, place.url, str(workers))
            if holder is None
            else Look(said="Busy", text=f"{_describe(holder)} is at it; left to that one.")
        )
    return Completed(name=found.said, message=found.text, data=found)
