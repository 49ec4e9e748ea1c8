"""`cmrm export --evaluate`: run a spec on the exported folder and on its source under hooks, and pair the two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.export.format import ExportFormat
from flows.export.source import ExportSource
from flows.run import run_spec
from flows.spec.interventions import AnyIntervention, InterventionSpec, StackSpec
from flows.spec.model_sections import ModelSpec
from flows.spec.organism import place_organism
from flows.spec.spec import Spec, check_spec, read_spec
from storage.store import Store
from tasks.export.arms import RunArm
from tasks.export.evaluation import Evaluation, HooksArm, evaluate

OWN = "own"
# The format whose folder is a model.
CHECKPOINT = "checkpoint"
# What a spec may ask for besides answers, and what it is without.
PLAIN: dict[str, Any] = {"target_states": [], "steered_states": [], "parts": [], "overhead": None}


def find_spec(asked: str, arm: RunArm | None) -> Spec:
    """Find the spec of an evaluation: a file, or the run's `own`. Raises `UserError`."""
    if asked != OWN:
        return read_spec(Path(asked))
    if arm is None:
        raise _refuse_file()
    return check_spec(dict(arm.spec), where=f"run {arm.run}: its spec")


def refuse_format(chosen: ExportFormat) -> None:
    """Raise `UserError` for a format whose exports cannot be evaluated."""
    if chosen.kind != CHECKPOINT:
        raise UserError(
            f"--evaluate and --sweep: cmrm runs what transformers loads, and --to {chosen.kind} is not that; use "
            "--to checkpoint."
        )


def refuse_unevaluated(source: ExportSource, spec: Spec) -> None:
    """Raise `UserError`, before anything is written, for an export that cannot be evaluated by a spec."""
    if source.arm is None:
        raise _refuse_file()
    make_hooks(source, spec)


def _refuse_file() -> UserError:
    return UserError(
        "--evaluate and --sweep: a file of Δ has no arm to hold its export against; export from the run."
    )


@dataclass(frozen=True, kw_only=True)
class RunPlace:
    """Where the runs of an evaluation are kept and done: store, Prefect server and workers."""

    store: str
    server: str | None
    workers: str

    def run(self, spec: Spec) -> str:
        """Run a spec; the id of its run."""
        return run_spec(spec, store=self.store, server=self.server, workers=self.workers).run_id


def evaluate_export(
    source: ExportSource, folder: Path, spec: Spec, *, place: RunPlace, hooked: str | None = None
) -> Evaluation:
    """Run a spec on the source under hooks and on an exported folder, and pair the two.

    Answers of the source that the store has are reused, and so is the run `hooked` if it is one under these hooks.
    Raises `UserError` or `StoreError`.
    """
    return evaluate(
        Store.open(place.store),
        source=hooked or run_under_hooks(source, spec, strengths=None, place=place),
        exported=run_exported(source, folder, spec, place=place),
        hooks=name_hooks(source, spec),
    )


def name_hooks(source: ExportSource, spec: Spec) -> HooksArm:
    """Name the arm that the export is held against."""
    assert source.arm is not None  # refused before
    condition = _find_conditions(source, spec)[0]
    return HooksArm(intervention=source.arm.name, alpha=source.arm.alpha, condition=condition)


def run_under_hooks(
    source: ExportSource, spec: Spec, *, strengths: Sequence[float] | None, place: RunPlace
) -> str:
    """Run a spec's data on the source, plain and under hooks, at its own strength or at several; the run's id."""
    placed = place_organism(spec)
    return place.run(
        placed.model_copy(
            update={
                **PLAIN,
                "conditions": _find_conditions(source, spec),
                "model": _find_model(placed, source),
                "models": [],
                "interventions": make_hooks(source, spec, strengths=strengths),
            }
        )
    )


def run_exported(source: ExportSource, folder: Path, spec: Spec, *, place: RunPlace) -> str:
    """Run a spec's data on an exported folder; the run's id."""
    placed = place_organism(spec)
    loaded = ModelSpec.model_validate({"id": str(folder.resolve()), "name": folder.name})
    own = _find_model(placed, source)
    return place.run(
        placed.model_copy(
            update={
                **PLAIN,
                "conditions": _find_conditions(source, spec),
                "model": loaded.model_copy(
                    update={"device": own.device, "system": own.system, "family": own.family}
                ),
                "models": [],
                "interventions": [],
            }
        )
    )


def make_hooks(
    source: ExportSource, spec: Spec, *, strengths: Sequence[float] | None = None
) -> Sequence[AnyIntervention]:
    """Make the interventions that hooks run: the arm as it was exported, and the parts of a stack before it.

    With `strengths` the arm is run at these, in place of its own.

    Raises `UserError` if the spec has no such arm, or another would have to be made than a spec can say.
    """
    assert source.arm is not None  # refused before
    strength = source.arm.alpha if strengths is None else list(strengths)
    known = {one.name: one for one in spec.all_interventions()}
    found = known.get(source.arm.name)
    if found is None:
        raise UserError(f"--evaluate: the spec has no intervention {source.arm.name!r}; give one that has.")
    if isinstance(found, InterventionSpec):
        chosen = list(source.blocks) if isinstance(source.blocks, tuple) else source.blocks
        return [found.model_copy(update={"alpha": strength, "blocks": chosen or found.blocks})]
    if source.blocks is not None:
        raise UserError(
            f"--evaluate: {found.name!r} is no plain Δ, so a spec cannot say it at other blocks; leave out --blocks."
        )
    if isinstance(found, StackSpec):
        return [*(known[name] for name in found.of), found]
    return [found.model_copy(update={"alpha": strength})]


def _find_conditions(source: ExportSource, spec: Spec) -> list[str]:
    """Find the conditions under which the spec asks the arm."""
    assert source.arm is not None  # refused before
    name = source.arm.name
    return list(next(one for one in make_hooks(source, spec) if one.name == name).conditions)


def _find_model(spec: Spec, source: ExportSource) -> ModelSpec:
    """Find the spec's section of the source model: that of its id, else the only one."""
    models = spec.all_models()
    named = [one for one in models if one.id == source.request.model.id]
    if named or len(models) == 1:
        return (named or models)[0]
    raise UserError(
        f"--evaluate: the spec has several models and none is {source.request.model.id!r}; give one with it."
    )
