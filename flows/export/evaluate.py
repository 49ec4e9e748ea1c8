"""`cmrm export --evaluate`: run a spec on the exported folder and on its source under hooks, and pair the two."""

from __future__ import annotations

from collections.abc import Sequence
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
        raise UserError("--evaluate own: a file of Δ has no run; give a spec.")
    return check_spec(dict(arm.spec), where=f"run {arm.run}: its spec")


def refuse_unevaluated(source: ExportSource, chosen: ExportFormat, spec: Spec) -> None:
    """Raise `UserError`, before anything is written, for an export that cannot be evaluated by a spec."""
    if chosen.kind != CHECKPOINT:
        raise UserError(
            f"--evaluate: cmrm runs what transformers loads, and --to {chosen.kind} is not that; evaluate a checkpoint."
        )
    if source.arm is None:
        raise UserError("--evaluate: a file of Δ has no arm to hold its export against; export from a run.")
    make_hooks(source, spec)


def evaluate_export(
    source: ExportSource, folder: Path, spec: Spec, *, store: str, server: str | None, workers: str
) -> Evaluation:
    """Run a spec on the source under hooks and on an exported folder, and pair the two.

    Answers of the source that the store has are reused. Raises `UserError` or `StoreError`.
    """
    assert source.arm is not None  # refused before
    hooks = make_hooks(source, spec)
    arm = next(one for one in hooks if one.name == source.arm.name)
    placed = place_organism(spec)
    shown = {**PLAIN, "conditions": list(arm.conditions)}
    own = placed.model_copy(
        update={**shown, "model": _find_model(placed, source), "models": [], "interventions": hooks}
    )
    loaded = ModelSpec.model_validate({"id": str(folder.resolve()), "name": folder.name})
    device = own.all_models()[0]
    baked = placed.model_copy(
        update={
            **shown,
            "model": loaded.model_copy(update={"device": device.device, "system": device.system}),
            "models": [],
            "interventions": [],
        }
    )
    runs = [run_spec(one, store=store, server=server, workers=workers).run_id for one in (own, baked)]
    return evaluate(
        Store.open(store),
        source=runs[0],
        exported=runs[1],
        hooks=HooksArm(intervention=arm.name, alpha=source.arm.alpha, condition=arm.conditions[0]),
    )


def make_hooks(source: ExportSource, spec: Spec) -> Sequence[AnyIntervention]:
    """Make the interventions that hooks run: the arm as it was exported, and the parts of a stack before it.

    Raises `UserError` if the spec has no such arm, or another would have to be made than a spec can say.
    """
    assert source.arm is not None  # refused before
    known = {one.name: one for one in spec.all_interventions()}
    found = known.get(source.arm.name)
    if found is None:
        raise UserError(f"--evaluate: the spec has no intervention {source.arm.name!r}; give one that has.")
    if isinstance(found, InterventionSpec):
        chosen = list(source.blocks) if isinstance(source.blocks, tuple) else source.blocks
        return [found.model_copy(update={"alpha": source.arm.alpha, "blocks": chosen or found.blocks})]
    if source.blocks is not None:
        raise UserError(
            f"--evaluate: {found.name!r} is no plain Δ, so a spec cannot say it at other blocks; leave out --blocks."
        )
    if isinstance(found, StackSpec):
        return [*(known[name] for name in found.of), found]
    return [found.model_copy(update={"alpha": source.arm.alpha})]


def _find_model(spec: Spec, source: ExportSource) -> ModelSpec:
    """Find the spec's section of the source model: that of its id, else the only one."""
    models = spec.all_models()
    named = [one for one in models if one.id == source.request.model.id]
    if named or len(models) == 1:
        return (named or models)[0]
    raise UserError(
        f"--evaluate: the spec has several models and none is {source.request.model.id!r}; give one with it."
    )
