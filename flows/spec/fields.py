"""The fields of a spec, each validated by itself."""

from __future__ import annotations

from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from cmrm.prompts.conditions import CONTROLS, PAPER_CONDITIONS, Condition, Meaningless
from cmrm.steering.settings import POSITIONS, Position
from cmrm.untrusted.printable import show_value
from flows.spec.captions import CaptionsSpec
from flows.spec.imported_arms import ImportedArmSpec
from flows.spec.interventions import DefenceSpec, InterventionField, InterventionSpec, StackSpec
from flows.spec.judge_fields import JudgeField, read_judge_field, refuse_shared_names
from flows.spec.model_sections import ModelSpec
from flows.spec.secrets import find_secret
from flows.spec.section import Name, PathText, Section
from flows.spec.sections import (
    AnchorsSpec,
    ChoiceSpec,
    DatasetSpec,
    GenerationSpec,
    ImagesSpec,
    OverheadSpec,
    RegressionSpec,
    refuse_repeats,
)
from tasks.judge.loaded import JudgeUse

# Longest name of a data set, in bytes.
MOST_NAME_BYTES = 200


class SpecFields(Section):
    """The fields of a spec. Batch size, shard size and device are part of no key."""

    title: str | None = None
    model: ModelSpec | None = None
    models: list[ModelSpec] = Field(default_factory=list)
    datasets: dict[str, DatasetSpec] = Field(min_length=1)
    anchors: AnchorsSpec
    targets: list[str] = Field(default_factory=list)
    conditions: list[Condition] = Field(default_factory=lambda: list(PAPER_CONDITIONS))
    images: ImagesSpec = ImagesSpec()
    # Meaningless images whose Δ is taken apart into positions, marks and image.
    parts: list[Meaningless] = Field(default_factory=list)
    # Conditions under which labelled directions and probes are reported, at every block.
    directions: list[Condition] = Field(default_factory=list)
    target_states: list[Condition] = Field(default_factory=lambda: list[Condition](["query", "image"]))
    steered_states: list[str] = Field(default_factory=list)
    # Where states are read. Δ, its parts and directions are measured at the last prompt token alone.
    positions: list[Position] = Field(default_factory=lambda: list[Position](["last"]))
    interventions: list[InterventionField] = Field(
        default_factory=lambda: list[InterventionSpec | DefenceSpec | StackSpec](
            [
                InterventionSpec(name="cmrm-dataset", level="dataset", alpha=1.0),
                InterventionSpec(name="cmrm-sample", level="sample", alpha=0.5),
            ]
        )
    )
    # Answers that other systems gave, by the name of the arm.
    arms: dict[Name, ImportedArmSpec] = Field(default_factory=dict)
    generation: GenerationSpec = GenerationSpec()
    captions: CaptionsSpec | None = None
    judges: list[JudgeField] = Field(
        default_factory=lambda: [read_judge_field(kind) for kind in ("refusal", "match")], min_length=1
    )
    choice: ChoiceSpec = ChoiceSpec()
    regression: RegressionSpec = RegressionSpec()
    overhead: OverheadSpec | None = None
    # None, written `auto`: as many samples as keep the device busy without OOM.
    batch_size: int | None = Field(default=None, ge=1)
    # Fixed batches, in every key: in half precision, batch composition can change an answer.
    reproducible: bool = False
    shard_size: int = Field(default=1024, ge=1, le=65_536)
    store: PathText | None = None

    @model_validator(mode="before")
    @classmethod
    def _hold_no_secret(cls, content: Any) -> Any:
        # Before any field is validated: a validation error would print the value.
        if found := find_secret(content):
            raise ValueError(found)
        return content

    @field_validator("batch_size", mode="before")
    @classmethod
    def _read_auto(cls, size: Any) -> Any:
        if size == "auto":
            return None
        if isinstance(size, bool) or (isinstance(size, str) and not size.isdecimal()):
            raise ValueError("a whole number above 0, or auto for as many as fit into memory")
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
                raise ValueError(
                    f"the name {show_value(name)} may hold letters, digits, '-', '_' and '.' only, no '.' first"
                )
            # The name is a folder of the store.
            if len(name.encode()) > MOST_NAME_BYTES:
                raise ValueError(
                    f"the name {show_value(name)} is longer than {MOST_NAME_BYTES} bytes; shorten it"
                )
        return datasets

    @field_validator(
        "targets", "conditions", "parts", "directions", "target_states", "steered_states", "positions"
    )
    @classmethod
    def _name_each_once(cls, names: list[str]) -> list[str]:
        return refuse_repeats(names)

    @field_validator("parts")
    @classmethod
    def _have_an_image(cls, images: list[Meaningless]) -> list[Meaningless]:
        if controls := [one for one in images if one in CONTROLS]:
            raise ValueError(f"{controls[0]} shows no image; name a meaningless image, such as blank")
        return images

    @field_validator("positions")
    @classmethod
    def _hold_the_last(cls, positions: list[Position]) -> list[Position]:
        if "last" not in positions:
            raise ValueError("last is missing, where Δ and the report's figures are read; add it")
        # In one order, so that the order in a spec changes no key.
        return [one for one in POSITIONS if one in positions]

    @field_validator("judges")
    @classmethod
    def _tell_the_judges_apart(cls, judges: list[JudgeUse]) -> list[JudgeUse]:
        refuse_shared_names(judges)
        return judges

    @model_serializer(mode="wrap")
    def _leave_out_what_is_new(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Records of specs without it stay those of releases that did not know it: the same run is found again.
        content: dict[str, Any] = write(self)
        for name, usual in (("captions", None), ("positions", ["last"]), ("directions", []), ("arms", {})):
            if content.get(name, 0) == usual:
                del content[name]
        return content
