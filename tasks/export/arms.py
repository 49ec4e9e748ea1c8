"""Find an arm of a finished run, with its strength, and make the constant shift that it subtracts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cmrm.defences import DEFENCES, Materials
from cmrm.errors import UserError
from cmrm.export.request import ConstantShift, Origin, make_constant, refuse
from cmrm.models.revision import ModelIdentity, resolve_model
from cmrm.steering.blocks import choose_blocks
from cmrm.steering.intervention import Intervention, Stack
from cmrm.untrusted.printable import show, show_names
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.options import build_plugin
from tasks.core.stage_name import StageName
from tasks.export.models import resolve_recorded
from tasks.report.summary import read_summary
from tasks.states.intervene import load_direction_once, load_shift_once

if TYPE_CHECKING:
    from cmrm.models.vlm import VisionLanguageModel
    from cmrm.steering.intervention import Steering

# Other kinds read the state, ask another prompt or mix logits.
CONSTANT_KINDS = frozenset(("direction", "random"))
READ = (StageName.GENERATE, StageName.SHIFT, StageName.DIRECTION)
BlockChoice = str | tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class RunArm:
    """An arm of a finished run at one strength: its model, and its content as the key of its answers has it.

    `model` is the run's record of it, and `identity` its files now. The run answered at the strengths `answered_at`;
    `spec` is the run's, as recorded.
    """

    run: str
    model: Mapping[str, Any]
    identity: ModelIdentity
    name: str
    alpha: float | None
    content: Mapping[str, Any]
    answered_at: tuple[float, ...]
    spec: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _CountedBlocks:
    """Stands in for a loaded model where only the number of its blocks is asked for."""

    blocks: Sequence[int]


def find_arm(store: Store, run: str, *, arm: str | None, alpha: float | None, model: str | None) -> RunArm:
    """Find an arm of a run, by id, or `latest` of those with interventions; `arm` is one's name, or NAME@α.

    Without a name, the one arm that can be exported; without a strength, the one that the report recommends, or the one
    that there is. `model` is the label, id or name of one of the run's models, needed where it has several, or a folder
    or hub id with the files of one.
    Raises `UserError`, listing what there is, and `StoreError`.
    """
    # An export that was evaluated leaves a run of plain answers, which may be the latest.
    record = find_finished(store, run, prefer=_has_interventions)
    report = find_report(store, record, stages=READ)
    chosen, folder = choose_model(record, model)
    arms = list_arms(store, report.content["used"].get(StageName.GENERATE, ()), chosen["name"])
    name, named_alpha = _choose_name(arms, arm)
    if alpha is not None and named_alpha is not None and alpha != named_alpha:
        raise UserError(
            f"--alpha {alpha:g}: --arm {show(str(arm))} names another strength; give one of the two."
        )
    strength = named_alpha if alpha is None else alpha
    known = arms[name]
    if strength is not None and set(known) == {None}:
        raise UserError(
            f"--alpha: the arm {show(name)!r} has no strength of its own (a stack has its parts'); leave it out."
        )
    if strength is None:
        curves = read_summary(store, report).curves
        strength = choose_strength(curves, known, name, chosen["name"])
    return RunArm(
        run=str(record["run_id"]),
        model=chosen,
        identity=resolve_recorded(chosen, folder=folder),
        name=name,
        alpha=strength,
        content=known[strength] if strength in known else next(iter(known.values())),
        answered_at=tuple(one for one in known if one is not None),
        spec=record["spec"],
    )


def make_shift(arm: RunArm, *, store: Store, blocks: int, chosen: BlockChoice | None) -> ConstantShift:
    """Make the constant shift of an arm, at its own blocks or at others that are chosen.

    `blocks` is the number of decoder blocks. Raises `UserError`, with the reason, for an arm that has none, and for a
    block where nothing was measured.
    """
    own = arm.content
    parts = own["parts"] if own.get("kind") == "stack" else [{**own, "alpha": arm.alpha}]
    built = [_build(part, arm.name, store=store, blocks=blocks, chosen=chosen) for part in parts]
    steering: Steering = built[0] if len(built) == 1 else Stack(parts=tuple(built))
    return make_constant(steering, arm=arm.name)


def describe_origin(arm: RunArm, *, store: Store, blocks: int) -> Origin:
    """Say where an arm's shift comes from: its run, what Δ was measured on, and where the run has answers under it."""
    parts = arm.content["parts"] if arm.content.get("kind") == "stack" else [arm.content]
    shifts = tuple(dict.fromkeys(part["shift"] for part in parts if isinstance(part.get("shift"), str)))
    made_from = load_shift_once(store.url, shifts[0]).made_from if shifts else {}
    return Origin(
        arm=arm.name,
        run=arm.run,
        shifts=shifts,
        made_from=made_from,
        answered_at=arm.answered_at,
        answered_blocks=make_shift(arm, store=store, blocks=blocks, chosen=None).blocks,
    )


def choose_model(record: Mapping[str, Any], asked: str | None) -> tuple[Mapping[str, Any], str | None]:
    """Choose one of a run's models, and the folder or hub id that was given for it, if any."""
    models: Sequence[Mapping[str, Any]] = record["models"]
    if asked is None and len(models) == 1:
        return models[0], None
    named = [one for one in models if asked in {one.get("label"), one["id"], one["name"]}]
    if len(named) == 1:
        return named[0], None
    if asked is not None and len(models) == 1:
        # Its files are held against the record's.
        return models[0], asked
    if asked is not None and ("/" in asked or Path(asked).is_dir()):
        found = resolve_model(asked).fingerprint
        if same := [one for one in models if one["fingerprint"] == found]:
            return same[0], asked
    names = show_names([str(one.get("label") or one["name"]) for one in models])
    raise UserError(f"--model: run {record['run_id']} has the models {names}; name one of them.")


def list_arms(
    store: Store, keys: Sequence[str], model: str
) -> dict[str, dict[float | None, Mapping[str, Any]]]:
    """List what a model was answered under: by intervention and strength, the content of its key."""
    arms: dict[str, dict[float | None, Mapping[str, Any]]] = {}
    for key in keys:
        content = need_manifest(store, StageName.GENERATE, key).content
        acting = content.get("intervention")
        if content["name"] == model and acting is not None:
            arms.setdefault(content["intervention_name"], {})[acting.get("alpha")] = acting
    return arms


def _has_interventions(record: Mapping[str, Any]) -> bool:
    return bool((record.get("spec") or {}).get("interventions"))


def _choose_name(
    arms: Mapping[str, Mapping[float | None, Any]], asked: str | None
) -> tuple[str, float | None]:
    if not arms:
        raise UserError(
            "the run has plain answers alone, as the run of an export that was evaluated has, and no arm; name one "
            "with interventions, by its id."
        )
    if asked is None:
        constant = [name for name, known in arms.items() if _is_constant(next(iter(known.values())))]
        if len(constant) == 1:
            return constant[0], None
        what = "no arm that can be exported" if not constant else "several arms that can be exported"
        raise UserError(f"--arm: the run has {what} (its arms: {show_names(list(arms))}); name one.")
    if asked in arms:
        return asked, None
    name, _, strength = asked.rpartition("@")
    if name in arms:
        try:
            return name, float(strength)
        except ValueError:
            raise UserError(
                f"--arm: {show(strength)!r} is no strength; give NAME@α, such as NAME@0.8."
            ) from None
    raise UserError(
        f"--arm: the run has no arm {show(asked)!r}; its arms: {show_names(list(arms)) or 'none'}."
    )


def _is_constant(content: Mapping[str, Any]) -> bool:
    if content.get("kind") == "stack":
        return all(map(_is_constant, content["parts"]))
    return content.get("level") == "dataset" or content.get("kind") in CONSTANT_KINDS


def choose_strength(
    curves: Sequence[Mapping[str, Any]], known: Mapping[float | None, Any], name: str, model: str
) -> float | None:
    """Choose the strength that the report's curve selects under its bound, else the one that there is."""
    for curve in curves:
        if (curve["model"], curve["intervention"]) == (model, name):
            selected = curve["choice"]["alpha"]
            # α = 0 says that no strength holds the bound.
            if selected:
                return float(selected)
    if len(known) == 1:
        return next(iter(known))
    strengths = ", ".join(f"{one:g}" for one in sorted(filter(None, known)))
    raise UserError(
        f"--alpha: the run has {show(name)!r} at α = {strengths} and its report selects none; give one."
    )


def _build(
    content: Mapping[str, Any], name: str, *, store: Store, blocks: int, chosen: BlockChoice | None
) -> Intervention:
    if "level" in content:
        if content["level"] != "dataset":
            refuse(name, "subtracts a Δ of each question's own (level sample)")
        numbers = number_blocks(chosen or _as_choice(content["blocks"]), blocks)
        return Intervention(
            delta=load_shift_once(store.url, content["shift"]).choose(numbers),
            alpha=content["alpha"],
            blocks=numbers,
            scope=content["scope"],
            composition=content["composition"],
        )
    kind = str(content.get("kind"))
    if kind not in CONSTANT_KINDS:
        refuse(name, f"is of kind {kind}, which reads the state, asks another prompt or mixes logits")
    options = dict(content["options"]) if chosen is None else {**content["options"], "blocks": chosen}
    materials = Materials(
        direction=content["direction"] and load_direction_once(store.url, content["direction"]),
        shift=content["shift"] and load_shift_once(store.url, content["shift"]),
    )
    built = build_plugin(DEFENCES, kind, options).build(_count(blocks), materials, alpha=content["alpha"])
    assert isinstance(built, Intervention)  # these kinds make no other
    return built


def number_blocks(choice: BlockChoice, blocks: int) -> tuple[int, ...]:
    """The numbers that a word or a choice means in a model of so many blocks; raises `UserError`."""
    return choose_blocks(_count(blocks), choice)


def _count(blocks: int) -> VisionLanguageModel:
    return cast("VisionLanguageModel", _CountedBlocks(blocks=range(blocks)))


def _as_choice(blocks: Any) -> BlockChoice:
    return blocks if isinstance(blocks, str) else tuple(blocks)
