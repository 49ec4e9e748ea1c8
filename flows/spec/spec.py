"""The spec of a run: one YAML file, validated when read. Errors name the field's full path, the value and the fix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError, model_validator

from cmrm.defences import SteppedDefence
from cmrm.errors import UserError
from cmrm.prompts.conditions import CONTROLS, Condition, Control, Meaningless
from cmrm.untrusted.printable import show, show_names, show_value
from cmrm.untrusted.regular_file import MissingFileError
from flows.spec.errors import explain_mistakes
from flows.spec.fields import SpecFields
from flows.spec.interventions import (
    MOST_ARMS,
    AnyIntervention,
    DefenceSpec,
    InterventionSpec,
    StackSpec,
    check_stacks,
    check_steps,
    is_stepped,
)
from flows.spec.model_sections import ModelSpec
from flows.spec.paths import start_paths_at
from flows.spec.text_files import is_standard_input, read_text
from tasks.states.shift import ShiftName

# The conditions that show text and no image.
SHOWN_TO_BACKBONES = ("query", "caption")
# Default batch size of reproducible runs.
FIXED_BATCH = 8
# Largest spec file.
MOST_BYTES = 8 * 2**20


class Spec(SpecFields):
    """The whole spec, whose fields agree with each other, and what follows from them."""

    @model_validator(mode="after")
    def _have_one_list_of_models(self) -> Self:
        if (self.model is None) == (not self.models):
            raise ValueError("model: give one model as `model`, or several as `models`, and not both")
        names = [one.asked_for for one in self.all_models()]
        if len(names) != len(set(names)):
            raise ValueError(
                f"models: tables could not tell {show_names(names)} apart; give each a unique name"
            )
        return self

    @model_validator(mode="after")
    def _ask_the_backbones(self) -> Self:
        backbones = [one.backbone for one in self.all_models() if one.backbone is not None]
        if backbones and not self.list_text_conditions():
            raise ValueError(
                "model.backbone: a text-only model answers under query and caption, and conditions has neither; add "
                "one, or leave backbone out"
            )
        return self

    @model_validator(mode="after")
    def _refer_to_what_is_there(self) -> Self:
        for field, names in (("anchors.from", self.anchors.from_), ("targets", self.targets)):
            for name in names:
                if name not in self.datasets:
                    raise ValueError(
                        f"{field}: no data set {show_value(name)}; there are {show_names(self.datasets)}"
                    )
        arms = sum(one.count_arms() for one in self.interventions)
        if arms > MOST_ARMS:
            raise ValueError(
                f"interventions: with every strength and combination of a grid they make {arms} arms, and a run takes "
                f"at most {MOST_ARMS}; give fewer"
            )
        spread = self.all_interventions()
        counts = Counter(intervention.name for intervention in spread)
        if repeated := [name for name, count in counts.items() if count > 1]:
            raise ValueError(
                f"interventions: names must differ; {show_names(repeated)} is given more than once"
            )
        # A grid's name stands for all of its interventions.
        counts.update(intervention.name for intervention in self.interventions)
        if unknown := [name for name in self.steered_states if name not in counts]:
            raise ValueError(
                f"steered_states: no intervention {show_value(unknown[0])}; there are {show_names(counts) or 'none'}"
            )
        # States, parts, directions and timings need no answers, but a spec must ask for at least one of them.
        asked = (self.conditions, self.steered_states, self.overhead, self.parts, self.directions)
        if not any(asked) and ("target_states" not in self.model_fields_set or not self.target_states):
            raise ValueError(
                "conditions: nothing is to be answered, and no parts, directions, target_states, steered_states or "
                "overhead ask for anything else; name at least one, such as image"
            )
        check_stacks(spread)
        check_steps(spread, conditions=self.conditions)
        if stepped := [one.name for one in spread if is_stepped(one) and one.name in self.steered_states]:
            raise ValueError(
                f"steered_states: {show_value(stepped[0])} generates several times, and has no one state to store; "
                "leave it out"
            )
        if not any(self.anchors.from_.values()) and self.needs_anchors():
            raise ValueError(
                "anchors.from: Δ, its parts and labelled directions are measured on anchors; give a share above 0"
            )
        return self

    @model_validator(mode="after")
    def _have_one_first_token(self) -> Self:
        if "first_answer" in self.positions and (mixed := self._find_mixed()):
            raise ValueError(
                f"positions: {show_value(mixed)} of steered_states mixes the logits of two prompts, so its first token "
                "is fed to both; leave out first_answer, or the intervention in steered_states"
            )
        return self

    @model_validator(mode="after")
    def _compare_imported_arms(self) -> Self:
        own = [one.asked_for for one in self.all_models()]
        for name, arm in self.arms.items():
            if name in own:
                raise ValueError(
                    f"arms: tables could not tell {show_value(name)} from the model of that name; rename one"
                )
            if arm.dataset is not None and arm.dataset not in self.judged():
                raise ValueError(
                    f"arms.{show(name)}.dataset: {show_value(arm.dataset)} is no data set that is answered; there are "
                    f"{show_names(self.judged())}"
                )
            if "condition" not in arm.columns and arm.condition not in self.conditions:
                raise ValueError(
                    f"arms.{show(name)}.condition: {arm.condition} is none of the run's conditions "
                    f"({show_names(self.conditions) or 'it has none'}), so nothing could be compared with its answers; "
                    "add it to conditions, or correct it"
                )
        return self

    @model_validator(mode="after")
    def _show_the_captions(self) -> Self:
        if self.captions is not None and not (
            self.shows_captions() or "caption" in self.labelled_conditions() or self._asks_for_captions()
        ):
            raise ValueError(
                "captions: nothing in this spec shows a caption, and no defence asks for the same; name caption in "
                "conditions, or leave captions out"
            )
        return self

    @property
    def fixed_batch(self) -> int | None:
        """The fixed batch size of a reproducible run."""
        return (self.batch_size or FIXED_BATCH) if self.reproducible else None

    def all_models(self) -> list[ModelSpec]:
        """List the models, one or several."""
        return [self.model] if self.model is not None else self.models

    def list_loaded(self) -> list[ModelSpec]:
        """List the models that a run loads besides those of judges: the judged ones, and one that captions."""
        captioner = None if self.captions is None else self.captions.by
        return [*self.all_models(), *([] if captioner is None else [captioner])]

    def list_text_conditions(self) -> list[Condition]:
        """List the conditions under which a model's backbone is asked: those that show no image."""
        return [one for one in self.conditions if one in SHOWN_TO_BACKBONES]

    def all_interventions(self) -> list[InterventionSpec | DefenceSpec | StackSpec]:
        """List the interventions, with grids expanded."""
        return [one for intervention in self.interventions for one in intervention.spread()]

    def shifts(self) -> list[ShiftName]:
        """List the dataset-level shifts that the interventions need, by image, method and part, each once."""
        needed = [name_shift(one) for one in self.all_interventions()]
        return list(dict.fromkeys(one for one in needed if one is not None))

    def taken_apart(self) -> list[Meaningless]:
        """List the meaningless images whose Δ is taken apart: those asked for, and those of which a part is used."""
        used = [
            one.image
            for one in self.all_interventions()
            if isinstance(one, InterventionSpec) and one.part != "all"
        ]
        return list(dict.fromkeys([*self.parts, *used]))

    def controls(self) -> dict[str, Control]:
        """The fields that ask for a control, or for parts of Δ, which need it."""
        found: dict[str, Control] = {}
        for field_name, names in self._list_shown():
            named = set(names)
            if asked := [one for one in CONTROLS if one in named]:
                found[field_name] = asked[0]
        return found | ({"parts": "gap"} if self.taken_apart() else {})

    def shows_noise(self) -> bool:
        """Whether anything is measured or answered with a noise image."""
        shown = {name for _, names in self._list_shown() for name in names}
        return any(name.startswith("noise") for name in (*shown, *self.taken_apart()))

    def _list_shown(self) -> list[tuple[str, Iterable[str]]]:
        """List the fields that name conditions or meaningless images, and what each names."""
        return [
            ("conditions", self.conditions),
            ("directions", self.directions),
            ("target_states", self.target_states),
            (
                "interventions.conditions",
                (name for one in self.all_interventions() for name in one.conditions),
            ),
            (
                "interventions.image",
                (
                    *(one.image for one in self.all_interventions() if isinstance(one, InterventionSpec)),
                    # Of other defences, those that subtract a Δ.
                    *(name.image for name in self.shifts()),
                ),
            ),
        ]

    def labelled_conditions(self) -> list[Condition]:
        """List the conditions under which anchors are told apart by label, for defences or the report, each once."""
        return list(dict.fromkeys([*self.defence_directions(), *self.directions]))

    def defence_directions(self) -> list[Condition]:
        """List the conditions under which defences need labelled directions, each once."""
        needed = [
            one.defence.direction_from for one in self.all_interventions() if isinstance(one, DefenceSpec)
        ]
        return list(dict.fromkeys(one for one in needed if one is not None))

    def shows_captions(self) -> bool:
        """Whether a target is shown with its caption."""
        shown = [self.conditions, self.target_states, *(one.conditions for one in self.interventions)]
        return any("caption" in conditions for conditions in shown)

    def _asks_for_captions(self) -> bool:
        """Whether a defence asks its own model for captions as `captions` does."""
        captions = self.captions
        if (
            captions is None
            or captions.max_new_tokens not in (None, self.generation.max_new_tokens)
            or (captions.by is not None and captions.by.id not in {one.id for one in self.all_models()})
        ):
            return False
        return any(
            one.defence.caption_prompt(step) == captions.asked
            for one in self.all_interventions()
            if isinstance(one, DefenceSpec) and isinstance(one.defence, SteppedDefence)
            for step in one.defence.steps
        )

    def needs_anchors(self) -> bool:
        """Whether anything is measured on anchors."""
        return bool(self.shifts() or self.labelled_conditions() or self.parts)

    def steered_names(self) -> set[str]:
        """Name the interventions whose steered states are stored, with grids expanded."""
        kept = set(self.steered_states)
        return {
            one.name
            for intervention in self.interventions
            for one in intervention.spread()
            if not kept.isdisjoint((intervention.name, one.name))
        }

    def _find_mixed(self) -> str | None:
        """Find an intervention of `steered_states` that mixes logits; None if there is none."""
        kept = self.steered_names()
        return next(
            (
                one.name
                for one in self.all_interventions()
                if one.name in kept and isinstance(one, DefenceSpec) and one.defence.contrast(1.0) is not None
            ),
            None,
        )

    def limit(self, samples: int) -> Spec:
        """Limit every data set to at most `samples`."""
        datasets = {
            name: one.model_copy(update={"limit": min(samples, one.limit or samples)})
            for name, one in self.datasets.items()
        }
        return self.model_copy(update={"datasets": datasets})

    def judged(self) -> list[str]:
        """List the data sets whose targets are answered and judged: `targets`, or all."""
        return self.targets or list(self.datasets)


def name_shift(one: AnyIntervention) -> ShiftName | None:
    """Name the dataset-level Δ that an intervention needs; None if it needs none."""
    if isinstance(one, InterventionSpec):
        return ShiftName(one.image, one.method, one.part) if one.level == "dataset" else None
    if isinstance(one, StackSpec) or one.defence.shift_from is None:
        return None
    return ShiftName(*one.defence.shift_from)


def read_spec(path: Path) -> Spec:
    """Read and validate a spec file, or standard input for `-`; relative paths in it start at its folder.

    Raises `UserError`, also for anything but a regular file and for a file that is too large.
    """
    # Imported late, since the default spec needs no YAML.
    from flows.spec.yaml_reader import parse_yaml

    where = show(path)
    try:
        text = read_text(path, most=MOST_BYTES)
    except MissingFileError:
        raise UserError(
            f"{where}: no such spec file. Correct the path, or leave it out to run the embedded model."
        ) from None
    content = parse_yaml(text, where=where)
    if not isinstance(content, dict):
        raise UserError(f"{where}: holds no fields. A spec starts with model: and datasets:.")
    _refuse_null_harmful(content, where=where)
    folder = Path.cwd() if is_standard_input(path) else path.resolve().parent
    return start_paths_at(folder, check_spec(content, where=where), where=where)


def check_spec(content: dict[str, Any], *, where: str) -> Spec:
    """Validate a spec's content; raises `UserError` with one line per error: full path, value and fix."""
    try:
        return Spec.model_validate(content)
    except ValidationError as error:
        lines = explain_mistakes(error, Spec)
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _refuse_null_harmful(content: dict[str, Any], *, where: str) -> None:
    """Raise `UserError` for `harmful:` without a value, which would count as left out, and so as true."""
    datasets = content.get("datasets")
    for name, dataset in datasets.items() if isinstance(datasets, dict) else ():
        if isinstance(dataset, dict) and dataset.get("harmful", True) is None:
            raise UserError(
                f"{where}: datasets.{show(name)}.harmful: it is null; write true or false, or leave it out if "
                "the rows have it."
            )
