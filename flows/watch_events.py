"""What a watch tells Prefect: a model has a new revision, and whether it is as safe as the last.

An event's id is derived from what it tells, so that one told twice, after a kill, can be recognised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID, uuid5

import httpx
from prefect.client.orchestration import get_client
from prefect.events import Event, RelatedResource, Resource
from prefect.runtime import flow_run

from cmrm.errors import UserError
from flows.watch_history import PastRun
from storage.identity import digest
from tasks.run_comparison import RunComparison

UPDATED = "cmrm.model.updated"
REGRESSED = "cmrm.safety.regressed"
OK = "cmrm.safety.ok"
UNJUDGED = "cmrm.safety.unjudged"
NAMESPACE = UUID("a5a9f5b8-5d0c-5b0e-9d26-0e7a3c1f2b41")


def tell_updated(before: PastRun, fingerprints: Sequence[str], *, store: str) -> None:
    """Tell which models have other revisions than in the last run; raises `UserError` if it cannot be told."""
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


def tell_verdict(before: PastRun, after: PastRun, found: RunComparison, *, store: str) -> list[UUID]:
    """Tell how each changed model compares with itself before; the ids of the events, `UserError` as above."""
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
                "changes": [change.to_json() for change in found.changes if change.way.model == new["label"]],
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
    resource = {
        "prefect.resource.id": f"cmrm.model.{model['label']}",
        "prefect.resource.name": str(model["label"]),
        "cmrm.model.id": str(model["id"]),
    }
    return Event(
        id=uuid5(NAMESPACE, digest([name, resource, payload])),
        event=name,
        resource=Resource(resource),
        related=_find_flow_run(),
        payload=payload,
    )


def _find_flow_run() -> list[RelatedResource]:
    if flow_run.id is None:
        return []
    return [
        RelatedResource(
            {
                "prefect.resource.id": f"prefect.flow-run.{flow_run.id}",
                "prefect.resource.role": "flow-run",
                "prefect.resource.name": str(flow_run.name),
            }
        )
    ]


def _send(events: Sequence[Event]) -> None:
    # Prefect's emit_event() hands them to a thread and does not say whether they arrived.
    try:
        with get_client(sync_client=True) as client:
            client.request("POST", "/events", json=[event.model_dump(mode="json") for event in events])
    except httpx.HTTPError as error:
        raise UserError(
            f"Prefect's server did not take the event {events[0].event} ({error}); the next watch sends it again."
        ) from None
