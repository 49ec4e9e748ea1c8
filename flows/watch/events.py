"""Prefect events of a watch: a model has a new revision, and whether its safety regressed.

An event's id is derived from its content, so that an event sent twice, after a kill, can be deduplicated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, RelatedResource, Resource
from prefect.runtime import deployment, flow_run

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redact_known
from flows.watch.history import PastRun
from storage.records.hashing import digest
from tasks.compare.result import RunComparison

UPDATED = "cmrm.model.updated"
REGRESSED = "cmrm.safety.regressed"
OK = "cmrm.safety.ok"
UNJUDGED = "cmrm.safety.unjudged"
NAMESPACE = UUID("a5a9f5b8-5d0c-5b0e-9d26-0e7a3c1f2b41")


def send_updated(before: PastRun, fingerprints: Sequence[str], *, store: str) -> None:
    """Send an event for each model with a new revision since the last run; raises `UserError` if that fails."""
    _send(
        [
            _make_event(
                UPDATED,
                model,
                {"store": store, "before": _describe(before, model), "after": {"fingerprint": fingerprint}},
            )
            for model, fingerprint in zip(before.models, fingerprints, strict=True)
            if model["fingerprint"] != fingerprint
        ]
    )


def send_verdict(before: PastRun, after: PastRun, found: RunComparison, *, store: str) -> list[UUID]:
    """Send the verdict on each changed model; returns the event ids. Raises `UserError` if that fails."""
    name = REGRESSED if found.regressed else OK if found.judged else UNJUDGED
    events = [
        _make_event(
            name,
            new,
            {
                "store": store,
                "before": _describe(before, old),
                "after": _describe(after, new),
                "verdict": found.verdict,
                "regressed": found.regressed,
                "judged": found.judged,
                "changes": [change.to_json() for change in found.changes if change.arm.model == new["label"]],
            },
        )
        for old, new in zip(before.models, after.models, strict=True)
        if old["fingerprint"] != new["fingerprint"]
    ]
    _send(events)
    return [event.id for event in events]


def _describe(run: PastRun, model: Mapping[str, Any]) -> dict[str, str]:
    return {
        "run": run.run_id,
        "finished": run.stamp,
        "revision": str(model["revision"]),
        "fingerprint": str(model["fingerprint"]),
    }


def _make_event(name: str, model: Mapping[str, Any], payload: dict[str, Any]) -> Event:
    payload = _redact(payload)
    resource = {
        "prefect.resource.id": f"cmrm.model.{model['label']}",
        "prefect.resource.name": str(model["label"]),
        "cmrm.model.id": str(model["id"]),
    }
    return Event(
        id=uuid5(NAMESPACE, digest([name, resource, payload])),
        event=name,
        resource=Resource(resource),
        related=_find_related(),
        payload=payload,
    )


def _redact(value: Any) -> Any:
    """Redact secrets in JSON: a verdict or a reason may quote a server's message."""
    match value:
        case str():
            return redact_known(value)
        case Mapping():
            return {name: _redact(one) for name, one in value.items()}
        case list() | tuple():
            return [_redact(one) for one in value]
    return value


def _find_related() -> list[RelatedResource]:
    """The flow run that sends an event, and its deployment if it has one, for automations to match."""
    found = [
        ("flow-run", flow_run.id, flow_run.name),
        ("deployment", deployment.id, deployment.name),
    ]
    return [
        RelatedResource(
            {
                "prefect.resource.id": f"prefect.{role}.{id_}",
                "prefect.resource.role": role,
                "prefect.resource.name": str(name),
            }
        )
        for role, id_, name in found
        if id_ is not None
    ]


def _send(events: Sequence[Event]) -> None:
    # Prefect's emit_event() sends in a thread and does not report whether the events arrived.
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])
    except httpx.HTTPError as error:
        raise UserError(
            f"the Prefect server did not accept the event {events[0].event} ({error}); the next poll sends it again."
        ) from None
