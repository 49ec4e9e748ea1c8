"""The watch: poll for a new model revision, run the spec on it, and report whether safety regressed.

The verdict is written to the run record last, so that the next poll resumes what a killed watch left.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, State
from prefect.tasks import exponential_backoff
from rich.console import Console
from rich.text import Text

from cmrm.errors import ModelChangedError, ModelUnavailableError, UserError
from cmrm.models.adapters import find_adapter_revision
from cmrm.models.gguf_weights import find_gguf_revision
from cmrm.models.pinning import make_fingerprint
from cmrm.models.revision import find_revision
from cmrm.models.text_models import find_text_revision
from cmrm.statistics.regression import Thresholds
from cmrm.untrusted.redaction import redact_known, redacting
from flows.report.file_names import find_report_file
from flows.run import Result, find_store, run_spec
from flows.server.variables import resolve_variables
from flows.sinks.log import log_afterwards, make_flow_sinks
from flows.spec.model_sections import ModelSpec
from flows.spec.organism import place_organism
from flows.spec.parameters import Content, name_given, read_given
from flows.spec.spec import Spec
from flows.terminal.safe_text import show_safely
from flows.watch.events import send_updated, send_verdict
from flows.watch.history import PastRun, find_past_runs, find_predecessor, identify_spec
from storage.liveness.lease import Holder, lease
from storage.store import Store
from tasks.compare.stage import compare_runs
from tasks.core.models import join_fingerprints

log = logging.getLogger("cmrm.flows")

PollOutcome = Literal["First", "Unchanged", "Ok", "Regressed", "Unjudged", "Busy"]
# Retries, and the seconds before the first retry, doubled each time.
RETRIES = 4
BACKOFF_SECONDS = 5.0
JITTER = 0.5


@dataclass(frozen=True, kw_only=True)
class PollResult:
    """Result of one poll: outcome, text for people, the path of a new report, and the id of its run."""

    outcome: PollOutcome
    text: str
    report: str | None = None
    new_run: str | None = None


def is_transient(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether to retry a failed poll: the model was unavailable, or changed during the poll."""
    if not isinstance(state.data, ModelUnavailableError | ModelChangedError):
        return False
    # Prefect logs the retry, but a terminal or a mail from cron should show it too.
    Console(stderr=True).print(
        Text(show_safely(redact_known(f"cmrm: {state.data} It is retried."))), soft_wrap=True
    )
    return True


@task(
    name="look",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=exponential_backoff(BACKOFF_SECONDS),
    retry_jitter_factor=JITTER,
    retry_condition_fn=is_transient,
)
@redacting
def poll(spec: str | Content, model: str | None, store: str, workers: str) -> PollResult:
    """Poll once: run the spec if a model has a new revision, and finish what a killed watch left.

    `spec` and `model` are as for `read_given`.

    Raises `UserError` or `StoreError` for what the user can fix.
    """
    # Read again at each retry: the spec takes a missing model folder for a hub id.
    read = read_given(spec, model=model)
    now = _find_fingerprints(read)
    opened = Store.open(store)
    runs = find_past_runs(opened, read)
    if not runs:
        result = _run(read, opened, workers, now)
        text = "First run, nothing to compare with."
        return PollResult(outcome="First", text=text, report=result.report, new_run=result.run_id)
    last = runs[-1]
    if last.fingerprints != now:
        return _measure(read, opened, workers, last, now)
    before = find_predecessor(runs)
    if before is None or last.was_reported_against(before):
        verdict = last.watched.get("verdict") if before else None
        repeated = f" Last verdict: {verdict}" if verdict else ""
        since = _show_time(last.stamp)
        return PollResult(outcome="Unchanged", text=f"Unchanged since {since}, run {last.run_id}.{repeated}")
    # Another process ran the spec, and was killed before the comparison.
    send_updated(before, now, store=opened.url)
    return _compare(read, opened, before, last)


def _find_fingerprints(spec: Spec) -> list[str]:
    models = place_organism(spec).all_models()
    backbones = (one.backbone for one in models if one.backbone is not None)
    # In the order of `PastRun.models`.
    return [
        *map(_find_fingerprint, models),
        *(make_fingerprint(one.id, find_text_revision(one.id, revision=one.revision)) for one in backbones),
    ]


def _find_fingerprint(model: ModelSpec) -> str:
    found = find_revision(model.id, revision=model.revision, trust_remote_code=model.trust_remote_code)
    fingerprint = make_fingerprint(model.id, found)
    own = None
    if (adapter := model.adapter) is not None:
        own = make_fingerprint(adapter.id, find_adapter_revision(adapter.id, revision=adapter.revision))
    weights = model.backbone_weights
    backbone = None if weights is None else find_gguf_revision(weights.gguf)
    return join_fingerprints(fingerprint, adapter=own, backbone=backbone)


def _run(spec: Spec, store: Store, workers: str, now: list[str]) -> Result:
    try:
        return run_spec(spec, store=store.url, workers=workers)
    except UserError as error:
        # Loading may have failed because the weights changed meanwhile; then retry.
        if (
            not isinstance(error, ModelChangedError | ModelUnavailableError)
            and _find_fingerprints(spec) != now
        ):
            raise ModelChangedError(f"{error} The model changed meanwhile.") from error
        raise


def _measure(spec: Spec, store: Store, workers: str, before: PastRun, now: list[str]) -> PollResult:
    send_updated(before, now, store=store.url)
    result = _run(spec, store, workers, now)
    runs = find_past_runs(store, spec)
    after = next((run for run in runs if run.run_id == result.run_id), None)
    if after is None:
        raise UserError(
            f"run {result.run_id} was removed from {store.url} before it was compared; poll again."
        )
    if after.fingerprints != now:
        raise ModelChangedError(
            "model.id: a newer revision appeared while the run was starting; the results are stored under that one."
        )
    return _compare(spec, store, before, after)


def _compare(spec: Spec, store: Store, before: PastRun, after: PastRun) -> PollResult:
    thresholds = Thresholds(**spec.regression.model_dump())
    found = compare_runs(store, before.run_id, after.run_id, thresholds=thresholds)
    events = send_verdict(before, after, found, store=store.url)
    watched = {
        "compared_with": before.run_id,
        "compared_stamp": before.stamp,
        "verdict": found.verdict,
        "regressed": found.regressed,
        "judged": found.judged,
        "thresholds": thresholds.to_json(),
        "events": [str(one) for one in events],
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    record = store.read_run(after.run_id)
    store.write_run(after.run_id, {**record, "watched": watched})
    changed = "; ".join(
        f"{new['label']}: {_shorten(old['revision'])} → {_shorten(new['revision'])}"
        for old, new in zip(before.models, after.models, strict=True)
        if old["fingerprint"] != new["fingerprint"]
    )
    return PollResult(
        outcome="Regressed" if found.regressed else "Ok" if found.judged else "Unjudged",
        text=f"{changed} (runs {before.run_id} → {after.run_id}). {found.verdict}",
        report=f"{store.url}/{find_report_file(after.run_id)}",
        new_run=after.run_id,
    )


def _describe(holder: Holder) -> str:
    return f"Since {_show_time(holder.since)} process {holder.pid} on {holder.host}"


def _show_time(stamp: str) -> str:
    return f"{stamp[:16].replace('T', ' ')} UTC"


def _shorten(revision: str) -> str:
    return "+".join(one.removeprefix("sha256:")[:12] for one in revision.split("+"))


def _name_poll() -> str:
    return f"watch {name_given(flow_run.parameters['spec'])}"


@flow(name="cmrm-watch", flow_run_name=_name_poll)
@redacting
def watch_deployed(
    spec: str | dict[str, Any],
    *,
    store: str | None = None,
    model: str | None = None,
    workers: str | int = "auto",
    log_to: list[str] | None = None,
) -> State[PollResult]:
    """Poll once as a Prefect flow, for a schedule; the final state is named after the outcome.

    `spec` is a file where the flow runs, or the content itself. `store` and `model`, which replaces the spec's, may
    hold `{{ prefect.variables.NAME }}`. Without `store`, CMRM_STORE or the spec names it. If another watch holds the
    lease on the spec in the same store, return Busy. A new run is shown in the sinks of `log_to`, else of CMRM_LOG_TO.
    """
    sinks = make_flow_sinks(log_to)
    model = resolve_variables(model, where="model")
    read = read_given(spec, model=model)
    opened = Store.create(find_store(read, resolve_variables(store, where="store")))
    with lease(opened, identify_spec(read)) as holder:
        found = (
            poll(spec, model, opened.url, str(workers))
            if holder is None
            else PollResult(outcome="Busy", text=f"{_describe(holder)} is polling this spec; skipped.")
        )
    if found.new_run is not None:
        log_afterwards(found.new_run, opened.url, sinks, say=log.info)
    return Completed(name=found.outcome, message=found.text, data=found)
