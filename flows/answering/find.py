"""Find an arm by what a user names: a model, a finished run, a spec, or a file of Δ."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cmrm.errors import UserError
from cmrm.models.mean_color import read_mean_color
from cmrm.models.pinning import COMMIT, find_folder
from cmrm.prompts.conditions import make_meaningless
from cmrm.steering.settings import DEFAULT_COMPOSITION, DEFAULT_SCOPE
from cmrm.untrusted.printable import show, show_names
from flows.answering.arm import PLAIN_ARM, AnsweringArm, Scene
from flows.plan.plan import resolve_use
from flows.plan.prompts import choose_image_size
from flows.plan.uses import make_use
from flows.spec.interventions import AnyIntervention, DefenceSpec, StackSpec
from flows.spec.model_sections import ModelSpec
from flows.spec.organism import place_organism, place_organism_model
from flows.spec.sections import GenerationSpec
from flows.spec.spec import Spec, check_spec, name_shift, read_spec
from storage.records.hashing import digest_file
from storage.records.layout import DEFAULT_STORE
from storage.shards.rows import need_manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.core.models import ModelUse
from tasks.core.stage_name import StageName
from tasks.export.arms import choose_model, choose_strength, list_arms
from tasks.export.models import refuse_other_model
from tasks.report.summary import read_summary
from tasks.states.steering import DefenceUse, FileSteering, SingleUse, StackUse, Steering

SHIFT_ENDING = ".safetensors"
READ = (StageName.GENERATE, StageName.SHIFT, StageName.DIRECTION)
# What a run has answered under: by intervention and strength, the content of its key.
Answered = Mapping[str, Mapping[float | None, Mapping[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class ArmWish:
    """What a user asks for; None leaves a choice to what is found.

    `model` is a folder, a hub id, `organism`, or a model's name in a run or spec. `shift` is a run's id, `latest`, or a
    file of Δ; `spec` a spec's file; `store` is that of
    the runs, by default `CMRM_STORE`, else `./cmrm-store`. `arm` is an intervention's name, NAME@α, or `plain`.
    """

    model: str
    store: str = field(default_factory=lambda: os.environ.get("CMRM_STORE") or DEFAULT_STORE)
    revision: str | None = None
    shift: str | None = None
    spec: Path | None = None
    arm: str | None = None
    alpha: float | None = None
    blocks: str | tuple[int, ...] | None = None
    scope: str | None = None
    composition: str | None = None
    system: str | None = None
    dtype: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.shift is not None and self.spec is not None:
            raise UserError("spec: a run or file of Δ is named by shift as well; give one of the two.")
        of_file = self.shift is not None and self.shift.endswith(SHIFT_ENDING)
        fields = ("blocks", "scope", "composition")
        self._refuse(fields, "it belongs to a file of Δ; a spec says it for its arms", unless=of_file)
        self._refuse(("arm",), "a file of Δ has no arms", unless=not of_file)
        named = self.shift is not None or self.spec is not None
        self._refuse(("arm", "alpha"), "nothing is named that has arms, by shift or spec", unless=named)
        fixed = "a run or spec says it; only a plain model or a file of Δ takes it"
        self._refuse(("revision", "system"), fixed, unless=not named or of_file)
        if of_file and self.alpha is None:
            raise UserError("alpha: a file of Δ has no strength; give one, such as alpha=1.")

    def _refuse(self, fields: tuple[str, ...], why: str, *, unless: bool) -> None:
        for name in fields:
            if not unless and getattr(self, name) is not None:
                raise UserError(f"{name}: {why}; leave it out.")


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """An intervention of a spec, None for plain answers, and the strength that was named for it, if any."""

    intervention: AnyIntervention | None
    alpha: float | None


def find_arm(wish: ArmWish) -> AnsweringArm:
    """Find an arm; raises `UserError`, listing what there is, or `StoreError`."""
    if wish.spec is not None:
        return _find_in_spec(wish, wish.spec)
    if wish.shift is None:
        return AnsweringArm(
            model=_resolve(wish), use=None, scene=None, max_new_tokens=GenerationSpec().max_new_tokens
        )
    if wish.shift.endswith(SHIFT_ENDING):
        return _find_file(wish, Path(wish.shift))
    return _find_in_run(wish, wish.shift)


def _resolve(wish: ArmWish) -> ModelUse:
    given = {"revision": wish.revision, "system": wish.system, "dtype": wish.dtype, "device": wish.device}
    try:
        section = ModelSpec.model_validate(
            {"id": wish.model, **{name: value for name, value in given.items() if value is not None}}
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    section = place_organism_model(section)
    if wish.revision is not None and find_folder(section.id) is not None:
        raise UserError(f"revision: {wish.model!r} is a folder, which has no revisions; leave it out.")
    return resolve_use(section)


def _find_file(wish: ArmWish, path: Path) -> AnsweringArm:
    from cmrm.steering.shift import load_shift

    assert wish.alpha is not None  # checked by the wish
    model, shift = _resolve(wish), load_shift(path)
    refuse_other_model(shift.made_from, model.identity, where=f"shift: {path.name}")
    found = digest_file(path)
    use = FileSteering(
        name=path.name,
        level="dataset",
        image="blank",
        method=shift.made_from.get("method", "mean"),
        alpha=wish.alpha,
        blocks=shift.blocks if wish.blocks is None else wish.blocks,
        scope=wish.scope or DEFAULT_SCOPE,
        composition=wish.composition or DEFAULT_COMPOSITION,
        shift=found,
        file=path.resolve(),
    )
    limit = GenerationSpec().max_new_tokens
    return AnsweringArm(model=model, use=use, scene=None, max_new_tokens=limit, shifts={path.name: found})


def _find_in_run(wish: ArmWish, run: str) -> AnsweringArm:
    store = Store.open(wish.store)
    record = find_finished(store, run)
    spec = check_spec(dict(record["spec"]), where=f"run {record['run_id']}: its spec")
    return _find_in_record(wish, spec, record, store)


def _find_in_spec(wish: ArmWish, path: Path) -> AnsweringArm:
    spec = place_organism(read_spec(path))
    chosen = _choose_intervention(spec, wish)
    one = chosen.intervention
    if one is None or not _is_measured(spec, one):
        model = _override(resolve_use(_choose_section(spec, wish)), wish)
        return _make_arm(spec, chosen, {}, model=model, source={"spec": str(path)})
    store = Store.open(wish.store)
    content = spec.model_dump(mode="json", by_alias=True)
    runs = [run for run in store.runs() if run.get("status") == "finished" and run.get("spec") == content]
    if not runs:
        raise UserError(
            f"spec: the arm {show(one.name)!r} of {show(path)} subtracts what a run measures, and the store "
            f"{store.url} has no finished run of that spec; make one with cmrm run, or name another by shift."
        )
    arm = _find_in_record(wish, spec, find_finished(store, str(runs[-1]["run_id"])), store)
    return replace(arm, source={**arm.source, "spec": str(path)})


def _find_in_record(wish: ArmWish, spec: Spec, record: Mapping[str, Any], store: Store) -> AnsweringArm:
    report = find_report(store, record, stages=READ)
    with _as_fields():
        told, folder = choose_model(record, wish.model)
    section = spec.all_models()[list(record["models"]).index(told)]
    revision = str(told["revision"]).partition("+")[0]
    pinned = {"revision": revision} if COMMIT.fullmatch(revision) else {}
    model = resolve_use(section.model_copy(update={**pinned, **({} if folder is None else {"id": folder})}))
    if model.fingerprint != told["fingerprint"]:
        raise UserError(
            f"model: the files of {model.identity.id!r} are not those of run {record['run_id']} ({told['name']}): "
            "they have changed, or are another model's. Run the spec again."
        )
    chosen = _choose_intervention(spec, wish)
    if chosen.intervention is not None and chosen.alpha is None:
        known = dict.fromkeys(chosen.intervention.strengths())
        curves = read_summary(store, report).curves
        with _as_fields():
            alpha = choose_strength(curves, known, chosen.intervention.name, told["name"])
        chosen = replace(chosen, alpha=alpha)
    arms = list_arms(store, report.content["used"].get(StageName.GENERATE, ()), told["name"])
    source = {"run": str(record["run_id"]), "store": store.url}
    return _make_arm(spec, chosen, arms, model=_override(model, wish), source=source)


def _override(model: ModelUse, wish: ArmWish) -> ModelUse:
    return replace(model, dtype=wish.dtype or model.dtype, device=wish.device or model.device)


def _make_arm(
    spec: Spec, chosen: _Chosen, arms: Answered, *, model: ModelUse, source: Mapping[str, str]
) -> AnsweringArm:
    use = None if chosen.intervention is None else _make_use(spec, chosen.intervention, chosen.alpha, arms)
    red, green, blue = spec.images.color
    meaningless = make_meaningless(
        size=choose_image_size(spec, model),
        color=(red, green, blue),
        seed=spec.images.seed,
        mean=read_mean_color(model.identity.folder),
        contrast=spec.images.noise_contrast,
    )
    return AnsweringArm(
        model=model,
        use=use,
        scene=None if use is None else Scene(store=source.get("store", ""), meaningless=meaningless),
        max_new_tokens=spec.generation.max_new_tokens,
        shifts={} if use is None else _digest_shifts(use, source.get("store")),
        source=source,
    )


def _make_use(spec: Spec, one: AnyIntervention, alpha: float | None, arms: Answered) -> SingleUse:
    if isinstance(one, StackSpec):
        if alpha is not None:
            raise UserError(
                f"alpha: {show(one.name)!r} is a stack, whose parts have their own; leave it out."
            )
        known = {part.name: part for part in spec.all_interventions()}
        # A spec has no part with several strengths in a stack.
        parts = [(known[name], next(iter(known[name].strengths()))) for name in one.of]
        made = tuple(_make_single(part, own, arms) for part, own in parts)
        return StackUse(name=one.name, parts=made)
    strengths = list(one.strengths())
    if alpha is not None and strengths == [None]:
        raise UserError(f"alpha: the arm {show(one.name)!r} has no strength; leave it out.")
    if alpha is None and len(strengths) > 1:
        known_strengths = ", ".join(f"{strength:g}" for strength in strengths if strength is not None)
        raise UserError(f"alpha: {show(one.name)!r} has α = {known_strengths}; give one.")
    return _make_single(one, strengths[0] if alpha is None else alpha, arms)


def _make_single(one: AnyIntervention, alpha: float | None, arms: Answered) -> Steering | DefenceUse:
    assert not isinstance(one, StackSpec)  # a spec refuses a stack of stacks
    shift, wanted = name_shift(one), one.defence.direction_from if isinstance(one, DefenceSpec) else None
    if shift is None and wanted is None:
        return make_use(one, alpha, {}, {})
    content = next(iter(arms[one.name].values()))
    return make_use(
        one,
        alpha,
        {} if shift is None else {shift: content["shift"]},
        {} if wanted is None else {wanted: content["direction"]},
    )


def _is_measured(spec: Spec, intervention: AnyIntervention) -> bool:
    """Whether an intervention subtracts what a run measures, or a part of it does."""
    if isinstance(intervention, StackSpec):
        return any(_is_measured(spec, one) for one in spec.all_interventions() if one.name in intervention.of)
    direction = intervention.defence.direction_from if isinstance(intervention, DefenceSpec) else None
    return name_shift(intervention) is not None or direction is not None


def _digest_shifts(use: SingleUse, store: str | None) -> dict[str, str]:
    """The SHA-256 of the file of each dataset-level Δ, by its key."""
    parts = use.parts if isinstance(use, StackUse) else (use,)
    keys = dict.fromkeys(part.shift for part in parts if part.shift is not None)
    if not keys or store is None:
        return {}
    opened = Store.open(store)
    return {key: need_manifest(opened, StageName.SHIFT, key).files[0].sha256 for key in keys}


def _choose_intervention(spec: Spec, wish: ArmWish) -> _Chosen:
    """Choose the arm that is named, by NAME, NAME@α or `plain`, or the only one."""
    known = {one.name: one for one in spec.all_interventions()}
    if wish.arm is None and not known:
        wish = replace(wish, arm=PLAIN_ARM)
    if wish.arm is None:
        if len(known) == 1:
            return _Chosen(intervention=next(iter(known.values())), alpha=wish.alpha)
        raise UserError(f"arm: there are several, {_list_names(known)}; name one.")
    if wish.arm in known:
        return _Chosen(intervention=known[wish.arm], alpha=wish.alpha)
    if wish.arm == PLAIN_ARM:
        if wish.alpha is not None:
            raise UserError("alpha: plain answers have no strength; leave it out.")
        return _Chosen(intervention=None, alpha=None)
    name, _, strength = wish.arm.rpartition("@")
    if name not in known:
        raise UserError(f"arm: there is no {show(wish.arm)!r}; there are {_list_names(known)}.")
    if wish.alpha is not None:
        raise UserError(f"alpha: {show(wish.arm)!r} names a strength as well; give one of the two.")
    try:
        return _Chosen(intervention=known[name], alpha=float(strength))
    except ValueError:
        raise UserError(f"arm: {show(strength)!r} is no strength; give NAME@α, such as NAME@0.8.") from None


def _list_names(known: Mapping[str, AnyIntervention]) -> str:
    return show_names([*known, PLAIN_ARM])


def _choose_section(spec: Spec, wish: ArmWish) -> ModelSpec:
    models = spec.all_models()
    named = [one for one in models if wish.model in {one.name, one.id, one.asked_for}]
    if len(named) != 1:
        names = show_names([one.name or one.id for one in models])
        raise UserError(f"model: the spec has {names}; name one of them.")
    return named[0]


@contextmanager
def _as_fields() -> Iterator[None]:
    """Name fields, as here, where an error names the command's options."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error).removeprefix("--")) from None
