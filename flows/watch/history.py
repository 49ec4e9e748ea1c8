"""Finished runs of a spec in a store: model revisions of each, and the recorded verdict of the watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flows.spec.organism import place_organism
from flows.spec.spec import Spec
from storage.records.hashing import digest
from storage.store import Store

# Fields that change no answer of a run, only how it is shown, stored or judged.
OF_NO_EFFECT = {"title", "store", "batch_size", "shard_size", "choice", "regression"}

# Of a model, what changes no answer.
PLACEMENT: Any = {"device": True, "device_map": True, "backbone": {"device"}}


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A finished run of a spec; `stamp` is when it finished or was last confirmed (UTC, ISO 8601).

    After its `models` come the text-only ones beside them.
    """

    run_id: str
    stamp: str
    models: tuple[Mapping[str, Any], ...]
    watched: Mapping[str, Any]

    @property
    def fingerprints(self) -> list[str]:
        """The fingerprint of each model's revision, in the order of the spec."""
        return [str(model["fingerprint"]) for model in self.models]

    def was_reported_against(self, before: PastRun) -> bool:
        """Whether the comparison with the run before was completed and its event sent."""
        watched = self.watched
        return (watched.get("compared_with"), watched.get("compared_stamp")) == (before.run_id, before.stamp)


def identify_spec(spec: Spec) -> str:
    """Digest the fields of a spec that can change a result, 64 hex digits; models by name, not by resolved revision."""
    return digest(_essence(place_organism(spec)))


def find_past_runs(store: Store, spec: Spec) -> list[PastRun]:
    """Find the finished runs of the same spec, sorted by `stamp`."""
    wanted = _essence(place_organism(spec))
    found = [
        PastRun(
            run_id=str(run["run_id"]),
            # A repeated run with the same result confirms the earlier record.
            stamp=str(run.get("confirmed_at") or run["created_at"]),
            models=(*run["models"], *run.get("backbones", ())),
            watched=run.get("watched") or {},
        )
        for run in store.runs()
        if run.get("status") == "finished" and run.get("models") and _essence_of_record(run) == wanted
    ]
    return sorted(found, key=lambda run: run.stamp)


def find_predecessor(runs: Sequence[PastRun]) -> PastRun | None:
    """Find the newest run with other model revisions than the last run."""
    last = runs[-1].fingerprints
    return next((run for run in reversed(runs) if run.fingerprints != last), None)


def _essence(spec: Spec) -> dict[str, Any]:
    content = spec.model_dump(mode="json", by_alias=True, exclude=OF_NO_EFFECT)
    models = [model.model_dump(exclude=PLACEMENT) for model in spec.all_models()]
    if (captioner := (content.get("captions") or {}).get("by")) is not None:
        for placement in ("device", "device_map"):
            del captioner[placement]
    for dataset in content["datasets"].values():
        if dataset["clip"] is not None:
            del dataset["clip"]["device"]
    return {**content, "model": None, "models": models, "fixed_batch": spec.fixed_batch}


def _essence_of_record(run: Mapping[str, Any]) -> dict[str, Any] | None:
    # Validating it as a spec gives fields newer than the record their defaults.
    try:
        return _essence(Spec.model_validate(run["spec"]))
    except (KeyError, ValidationError):
        return None  # written by a release with another spec format
