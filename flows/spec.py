"""A run is a spec: one YAML file, checked when read. An error names the field's full path, the value and the fix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from cmrm.conditions import PAPER_CONDITIONS, Condition
from cmrm.errors import UserError
from flows.judge_fields import JudgeField, read_judge_field, refuse_shared_names, start_judge_at
from flows.mistakes import explain_mistake
from flows.model_sections import ModelSpec
from flows.section import Section
from flows.sections import (
    AnchorsSpec,
    ChoiceSpec,
    DatasetSpec,
    GenerationSpec,
    ImagesSpec,
    InterventionSpec,
    OverheadSpec,
    RegressionSpec,
    refuse_repeats,
)
from tasks.judges import JudgeUse

# What a path in a spec that names the embedded model's own files starts with, before and after pathlib has read it.
ORGANISM = ("organism://", "organism:/")
PATH_FIELDS = ("path", "images", "pair_with", "answers", "captions")


class Spec(Section):
    """The whole run. What must not change the content (batch and shard size, device) reaches no key."""

    title: str | None = None
    model: ModelSpec | None = None
    models: list[ModelSpec] = Field(default_factory=list)
    datasets: dict[str, DatasetSpec] = Field(min_length=1)
    anchors: AnchorsSpec
    targets: list[str] = Field(default_factory=list)
    conditions: list[Condition] = Field(default_factory=lambda: list(PAPER_CONDITIONS))
    images: ImagesSpec = ImagesSpec()
    target_states: list[Condition] = Field(default_factory=lambda: list[Condition](["query", "image"]))
    steered_states: list[str] = Field(default_factory=list)
    interventions: list[InterventionSpec] = Field(
        default_factory=lambda: [
            InterventionSpec(name="cmrm-dataset", level="dataset", alpha=1.0),
            InterventionSpec(name="cmrm-sample", level="sample", alpha=0.5),
        ]
    )
    generation: GenerationSpec = GenerationSpec()
    judges: list[JudgeField] = Field(
        default_factory=lambda: [read_judge_field(kind) for kind in ("refusal", "match")], min_length=1
    )
    choice: ChoiceSpec = ChoiceSpec()
    regression: RegressionSpec = RegressionSpec()
    overhead: OverheadSpec | None = None
    # None, in words `auto`, for as many as keep the device busy and fit into its memory.
    batch_size: int | None = Field(default=None, ge=1)
    shard_size: int = Field(default=1024, ge=1, le=65_536)
    store: str | None = None

    @field_validator("batch_size", mode="before")
    @classmethod
    def _read_auto(cls, size: Any) -> Any:
        if size == "auto":
            return None
        if isinstance(size, bool) or (isinstance(size, str) and not size.isdecimal()):
            raise ValueError("a whole number above 0, or auto for as many as there is room for")
        return size

    @field_validator("datasets")
    @classmethod
    def _plain_names(cls, datasets: dict[str, DatasetSpec]) -> dict[str, DatasetSpec]:
        for name in datasets:
            if (
                not name
                or not all(letter.isalnum() or letter in "-_." for letter in name)
                or name.startswith(".")
            ):
                raise ValueError(f"the name {name!r} may hold letters, digits, '-', '_' and '.' only")
        return datasets

    @field_validator("targets", "conditions", "target_states", "steered_states")
    @classmethod
    def _name_each_once(cls, names: list[str]) -> list[str]:
        return refuse_repeats(names)

    @field_validator("judges")
    @classmethod
    def _tell_the_judges_apart(cls, judges: list[JudgeUse]) -> list[JudgeUse]:
        refuse_shared_names(judges)
        return judges

    @model_validator(mode="after")
    def _have_one_list_of_models(self) -> Self:
        if (self.model is None) == (not self.models):
            raise ValueError("model: give one model as `model`, or several as `models`, and not both")
        names = [one.asked_for for one in self.all_models()]
        if len(names) != len(set(names)):
            raise ValueError(
                f"models: tables could not tell {', '.join(names)} apart; give each a name of its own"
            )
        return self

    @model_validator(mode="after")
    def _refer_to_what_is_there(self) -> Self:
        for field, names in (("anchors.from", self.anchors.from_), ("targets", self.targets)):
            for name in names:
                if name not in self.datasets:
                    raise ValueError(f"{field}: no data set {name!r}; there are {', '.join(self.datasets)}")
        spread = self.all_interventions()
        names = [intervention.name for intervention in spread]
        if len(names) != len(set(names)):
            raise ValueError(f"interventions: names must differ, not {', '.join(names)}")
        # A grid's own name stands for all that it makes.
        names += [intervention.name for intervention in self.interventions]
        if unknown := [name for name in self.steered_states if name not in names]:
            raise ValueError(
                f"steered_states: no intervention {unknown[0]!r}; there are {', '.join(names) or 'none'}"
            )
        if not any(self.anchors.from_.values()) and any(one.level == "dataset" for one in spread):
            raise ValueError("anchors.from: a dataset-level intervention needs anchors; give a share above 0")
        return self

    def all_models(self) -> list[ModelSpec]:
        """The models, one or several."""
        return [self.model] if self.model is not None else self.models

    def all_interventions(self) -> list[InterventionSpec]:
        """The interventions, with grids spread out."""
        return [one for intervention in self.interventions for one in intervention.spread()]

    def steered_names(self) -> set[str]:
        """The interventions whose states are kept, with grids spread out."""
        return {
            one.name
            for intervention in self.interventions
            for one in intervention.spread()
            if {intervention.name, one.name} & set(self.steered_states)
        }

    def limit(self, samples: int) -> Spec:
        """The same spec with at most so many samples of each data set."""
        datasets = {
            name: one.model_copy(update={"limit": min(samples, one.limit or samples)})
            for name, one in self.datasets.items()
        }
        return self.model_copy(update={"datasets": datasets})

    def judged(self) -> list[str]:
        """The data sets whose targets are answered and judged: `targets`, or all."""
        return self.targets or list(self.datasets)


def read_spec(path: Path) -> Spec:
    """Read and check a spec file; relative paths in it start at its own folder. Raises `UserError`."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such spec file. Correct the path, or leave it out to run the embedded model."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no fields. A spec starts with model: and datasets:.")
    return _start_paths_at(path.resolve().parent, check_spec(content, where=str(path)))


def check_spec(content: dict[str, Any], *, where: str) -> Spec:
    """Check a spec's content; `UserError` with one line per mistake, each with its full path, the value and the fix."""
    try:
        return Spec.model_validate(content)
    except ValidationError as error:
        lines = [explain_mistake(problem, Spec) for problem in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _start_paths_at(folder: Path, spec: Spec) -> Spec:
    store = spec.store
    if store is not None and "://" not in store:
        store = str(folder / Path(store).expanduser())
    return spec.model_copy(
        update={
            "datasets": {name: _start_dataset(folder, one) for name, one in spec.datasets.items()},
            "model": spec.model and spec.model.start_paths(folder),
            "models": [model.start_paths(folder) for model in spec.models],
            "judges": [start_judge_at(folder, judge) for judge in spec.judges],
            "store": store,
        }
    )


def _start_dataset(folder: Path, dataset: DatasetSpec) -> DatasetSpec:
    update: dict[str, Any] = {
        field: folder / value
        for field in PATH_FIELDS
        if (value := getattr(dataset, field)) is not None and not str(value).startswith(ORGANISM)
    }
    if dataset.format == "huggingface" and not update.get("path", folder).exists():
        del update["path"]  # an id on the hub
    if dataset.clip is not None and (folder / dataset.clip.id).is_dir():
        update["clip"] = dataset.clip.model_copy(update={"id": str(folder / dataset.clip.id)})
    return dataset.model_copy(update=update)
