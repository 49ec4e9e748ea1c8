"""What a store remembers of a spec: its finished runs, the models that each came to, and what was said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flows.organism import place_organism
from flows.spec import Spec
from storage.identity import digest
from storage.store import Store

# Fields that change how a run is shown, kept or judged, and none of its answers.
OF_NO_EFFECT = {"title", "store", "batch_size", "shard_size", "choice", "regression"}


@dataclass(frozen=True, kw_only=True)
class PastRun:
    """A finished run of a spec; `stamp` says when it was last come to (UTC, ISO 8601)."""

    run_id: str
    stamp: str
    models: tuple[Mapping[str, Any], ...]
    watched: Mapping[str, Any]

    @property
    def fingerprints(self) -> list[str]:
        """Which revision of each model it came to, in the order of the spec."""
        return [str(model["fingerprint"]) for model in self.models]

    def was_told(self, before: PastRun) -> bool:
        """Whether its comparison with the run before it was completed, down to the event."""
        told = self.watched
        return (told.get("compared_with"), told.get("compared_stamp")) == (before.run_id, before.stamp)


def identify_spec(spec: Spec) -> str:
    """Digest all of a spec that can change a result, 64 hex digits; models by what is asked for, not by revision."""
    return digest(_essence(place_organism(spec)))


def find_past_runs(store: Store, spec: Spec) -> list[PastRun]:
    """The finished runs of the same spec, by when they were last come to."""
    wanted = _essence(place_organism(spec))
    found = [
        PastRun(
            run_id=str(run["run_id"]),
            # A run that was given again and came to the same is not recorded anew.
            stamp=str(run.get("confirmed_at") or run["created_at"]),
            models=tuple(run["models"]),
            watched=run.get("watched") or {},
        )
        for run in store.runs()
        if run.get("status") == "finished" and run.get("models") and _essence_of_record(run) == wanted
    ]
    return sorted(found, key=lambda run: run.stamp)


def find_predecessor(runs: Sequence[PastRun]) -> PastRun | None:
    """The newest run before the last one that came to other revisions than it."""
    last = runs[-1].fingerprints
    return next((run for run in reversed(runs) if run.fingerprints != last), None)


def _essence(spec: Spec) -> dict[str, Any]:
    content = spec.model_dump(mode="json", by_alias=True, exclude=OF_NO_EFFECT)
    models = [model.model_dump(exclude={"device", "device_map"}) for model in spec.all_models()]
    for dataset in content["datasets"].values():
        if dataset["clip"] is not None:
            del dataset["clip"]["device"]
    return {**content, "model": None, "models": models}


def _essence_of_record(run: Mapping[str, Any]) -> dict[str, Any] | None:
    # Reading it as a spec gives fields that are newer than the record their defaults.
    try:
        return _essence(Spec.model_validate(run["spec"]))
    except (KeyError, ValidationError):
        return None  # of a release whose specs were others
