"""A run is a spec: one YAML file, checked when read. An error names the field's full path, the value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cmrm.conditions import CONDITIONS, Condition
from cmrm.datasets import get_format
from cmrm.errors import UserError
from cmrm.judges import get_judge


class Part(BaseModel):
    """A part of a spec: frozen, and strict about names."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSpec(Part):
    """Which model, and how it is loaded. `id` is a local folder or a hub id; `name` is what tables call it."""

    id: str = Field(min_length=1)
    name: str | None = Field(default=None, min_length=1)
    revision: str = "main"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = "auto"
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    system: str | None = None


class DatasetSpec(Part):
    """One data set: a format, its file, and the folder of its images; the rest depends on the format."""

    format: str
    path: Path
    images: Path | None = None
    pair_with: Path | None = None
    answers: Path | None = None
    captions: Path | None = None
    columns: dict[str, str] | None = None
    harmful: bool | None = None

    @field_validator("format")
    @classmethod
    def _know_the_format(cls, name: str) -> str:
        get_format(name)
        return name

    def options(self) -> dict[str, Any]:
        """The format's own options that the spec gives."""
        fields = ("pair_with", "answers", "captions", "columns", "harmful")
        return {name: value for name in fields if (value := getattr(self, name)) is not None}


Share = Annotated[float, Field(ge=0, le=1)]


class AnchorsSpec(Part):
    """Which share of each data set measures Δ and is never judged."""

    from_: dict[str, Share] = Field(alias="from")
    seed: int = 42


class ImagesSpec(Part):
    """The meaningless images: side in pixels, the blank one's colour, the noise's seed."""

    size: int = Field(default=336, ge=1, le=4096)
    color: tuple[Annotated[int, Field(ge=0, le=255)], ...] = Field(
        default=(255, 255, 255), min_length=3, max_length=3
    )
    seed: int = Field(default=0, ge=0)


class InterventionSpec(Part):
    """What is done to the states while answering (`DESIGN.md` §1); a list of strengths is one intervention each."""

    name: str = Field(min_length=1)
    level: Literal["dataset", "sample"] = "dataset"
    image: Literal["blank", "noise"] = "blank"
    alpha: (
        Annotated[float, Field(allow_inf_nan=False)] | list[Annotated[float, Field(allow_inf_nan=False)]]
    ) = 1.0
    blocks: Literal["upper_half", "middle", "all"] | list[Annotated[int, Field(ge=0)]] = "upper_half"
    scope: Literal["prefill", "every_step", "all"] = "every_step"
    composition: Literal["direct", "incremental"] = "incremental"

    @field_validator("alpha")
    @classmethod
    def _never_push_away_from_safety(cls, alpha: float | list[float]) -> float | list[float]:
        values = alpha if isinstance(alpha, list) else [alpha]
        if not values:
            raise ValueError("give at least one strength")
        _refuse_repeats(values)
        if any(value < 0 for value in values):
            raise ValueError(
                "a strength below 0 would push the model away from its safety training, which cmrm does not do; "
                "give 0 or more (the paper uses 0 to 1)"
            )
        return alpha

    @field_validator("blocks")
    @classmethod
    def _ascend(cls, blocks: str | list[int]) -> str | list[int]:
        if isinstance(blocks, list) and (not blocks or blocks != sorted(set(blocks))):
            raise ValueError("give distinct block numbers in ascending order, at least one")
        return blocks

    def strengths(self) -> Iterator[float]:
        """Each strength in turn."""
        yield from self.alpha if isinstance(self.alpha, list) else [self.alpha]


class GenerationSpec(Part):
    """How answers are decoded: greedily, up to a length."""

    max_new_tokens: int = Field(default=256, ge=1)


class Spec(Part):
    """The whole run. What must not change the content (batch and shard size, device) reaches no key."""

    model: ModelSpec
    datasets: dict[str, DatasetSpec] = Field(min_length=1)
    anchors: AnchorsSpec
    targets: list[str] = Field(default_factory=list)
    conditions: list[Condition] = Field(default_factory=lambda: list(CONDITIONS))
    images: ImagesSpec = ImagesSpec()
    target_states: list[Condition] = ["query", "image"]
    interventions: list[InterventionSpec] = Field(
        default_factory=lambda: [
            InterventionSpec(name="cmrm-dataset", level="dataset", alpha=1.0),
            InterventionSpec(name="cmrm-sample", level="sample", alpha=0.5),
        ]
    )
    generation: GenerationSpec = GenerationSpec()
    judges: list[str] = Field(default_factory=lambda: ["refusal", "match"], min_length=1)
    batch_size: int = Field(default=8, ge=1)
    shard_size: int = Field(default=1024, ge=1, le=65_536)
    store: str | None = None

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

    @field_validator("targets", "conditions", "target_states", "judges")
    @classmethod
    def _name_each_once(cls, names: list[str]) -> list[str]:
        return _refuse_repeats(names)

    @field_validator("judges")
    @classmethod
    def _know_the_judges(cls, names: list[str]) -> list[str]:
        for name in names:
            get_judge(name)
        return names

    @model_validator(mode="after")
    def _refer_to_what_is_there(self) -> Self:
        for field, names in (("anchors.from", self.anchors.from_), ("targets", self.targets)):
            for name in names:
                if name not in self.datasets:
                    raise ValueError(f"{field}: no data set {name!r}; there are {', '.join(self.datasets)}")
        names = [intervention.name for intervention in self.interventions]
        if len(names) != len(set(names)):
            raise ValueError(f"interventions: names must differ, not {', '.join(names)}")
        if not any(self.anchors.from_.values()) and any(one.level == "dataset" for one in self.interventions):
            raise ValueError("anchors.from: a dataset-level intervention needs anchors; give a share above 0")
        return self

    def judged(self) -> list[str]:
        """The data sets whose targets are answered and judged: `targets`, or all."""
        return self.targets or list(self.datasets)


def _refuse_repeats(values: list[Any]) -> list[Any]:
    # Named twice, it would be counted twice.
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value!r} stands there more than once; name it once")
    return values


def read_spec(path: Path) -> Spec:
    """Read and check a spec file; relative paths in it start at its own folder. Raises `UserError`."""
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
        lines = [_explain(problem) for problem in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _explain(problem: Any) -> str:
    # A union's members add their names to the path; a person wrote the field only.
    path = ".".join(str(step) for step in problem["loc"] if not _names_a_type(step))
    value = problem["input"]
    if problem["type"] == "extra_forbidden":
        known = _fields_at(problem["loc"][:-1])
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"{path}: no such field. " + (
            f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
        )
    if problem["type"] == "missing":
        return f"{path}: this field is missing. Add it."
    message = problem["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(value, dict) else f" (it is {value!r})"
    return f"{path}{shown}: {message}." if path else f"{message}."


def _names_a_type(step: Any) -> bool:
    return isinstance(step, str) and (step in {"float", "int", "str"} or "[" in step or "literal" in step)


def _fields_at(location: tuple[Any, ...]) -> list[str]:
    sections: dict[str, type[Part]] = {
        "model": ModelSpec,
        "datasets": DatasetSpec,
        "anchors": AnchorsSpec,
        "images": ImagesSpec,
        "interventions": InterventionSpec,
        "generation": GenerationSpec,
    }
    part = sections[str(location[0])] if location else Spec
    return [field.alias or name for name, field in part.model_fields.items()]


def _start_paths_at(folder: Path, spec: Spec) -> Spec:
    fields = ("path", "images", "pair_with", "answers", "captions")
    datasets = {
        name: dataset.model_copy(
            update={
                field: folder / value for field in fields if (value := getattr(dataset, field)) is not None
            }
        )
        for name, dataset in spec.datasets.items()
    }
    model = spec.model
    if (folder / model.id).is_dir():
        model = model.model_copy(update={"id": str(folder / model.id)})
    store = spec.store
    if store is not None and "://" not in store:
        store = str(folder / Path(store).expanduser())
    return spec.model_copy(update={"datasets": datasets, "model": model, "store": store})
