"""Sections of a spec about models: id, revision, dtype, device, quantization, GGUF, adapter, system, reasoning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_type_hints

from pydantic import (
    SerializerFunctionWrapHandler,
    ValidationInfo,
    create_model,
    field_validator,
    model_serializer,
)

from cmrm.models.families import Attention, Family
from cmrm.models.image_backend import Backend
from cmrm.models.quantization import NumberFormat, Quantization
from cmrm.models.reasoning import check_marks
from cmrm.models.system_prompts import read_system_line
from cmrm.models.text_models import TemplateChoice
from cmrm.untrusted.regular_file import is_folder
from flows.spec.home import expand_home
from flows.spec.section import ModelId, Name, PathText, Section

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


class QuantizationSpec(Section):
    """Quantization of weights by bitsandbytes; 4 bits in the format `type`, with quantized scales if `double`."""

    bits: Literal[4, 8]
    type: NumberFormat | None = None
    double: bool | None = None

    @field_validator("type", "double")
    @classmethod
    def _belong_to_four_bits(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("bits") == 8:
            raise ValueError("this belongs to 4 bits, and bits is 8; leave it out, or set bits: 4")
        return value

    def make(self) -> Quantization:
        """Make the quantization, with defaults filled in."""
        if self.bits == 8:
            return Quantization(bits=8)
        return Quantization(bits=4, type=self.type or "nf4", double=bool(self.double))


class AdapterSpec(Section):
    """A LoRA adapter of the model: a local folder or a hub id."""

    id: ModelId
    revision: str = "main"


class BackboneWeightsSpec(Section):
    """Weights of the language model in place of the folder's: a GGUF file of its text architecture."""

    gguf: PathText


# In place of a text-only model: the language model inside, whose answers to text are the model's own rows.
INSIDE = "inside"


class BackboneSpec(Section):
    """A text-only model that answers the same text beside a model: a local folder or a hub id.

    `template` says whose prompts it is shown: the `model`'s, token by token, or those of its `own` chat template;
    `auto` takes the model's where the tokenizers agree. What is not given is as for the model.
    """

    id: ModelId
    name: Name | None = None
    revision: str = "main"
    dtype: Dtype | None = None
    device: str | None = None
    attn_implementation: Literal["auto", Attention] | None = None
    template: TemplateChoice = "auto"


if TYPE_CHECKING:

    class FamilySpec(Section):
        """A row as in `cmrm/models/family_table.py`, for a model type that has none there."""

else:
    # Generated from the fields of a row of families, without the model type.
    _HINTS = get_type_hints(Family)
    FamilySpec = create_model(
        "FamilySpec",
        __base__=Section,
        __doc__="A row as in `cmrm/models/family_table.py`, for a model type that has none there.",
        **{
            one.name: (_HINTS[one.name], ... if one.default is MISSING else one.default)
            for one in fields(Family)
            if one.name != "model_type"
        },
    )


class ModelSpec(Section):
    """Which model to load, and how. `id` is a local folder or a hub id; `name` is its name in tables.

    `device_map` spreads it over all devices of a machine. `system` is a system prompt, or the name of one.
    `reasoning` names the two marks around its traces; `auto` finds them in its folder, `none` judges answers whole.
    `backbone` is the text-only model that it was made from, None for the language model `inside`.
    """

    id: ModelId
    name: Name | None = None
    revision: str = "main"
    dtype: Dtype = "auto"
    device: str = "auto"
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = None
    attn_implementation: Literal["auto", Attention] = "auto"
    image_backend: Literal["auto", Backend] = "auto"
    quantization: QuantizationSpec | None = None
    backbone_weights: BackboneWeightsSpec | None = None
    adapter: AdapterSpec | None = None
    family: FamilySpec | None = None
    trust_remote_code: bool = False
    system: str | None = None
    reasoning: Literal["auto", "none"] | tuple[str, str] = "auto"
    backbone: BackboneSpec | None = None

    @field_validator("backbone", mode="before")
    @classmethod
    def _take_an_id(cls, given: Any) -> Any:
        if not isinstance(given, str | Mapping | BackboneSpec | None):
            raise ValueError(  # noqa: TRY004 - pydantic turns it into a validation error
                "write the id of a text-only model, a mapping with its id, or inside for the language model inside"
            )
        if isinstance(given, str):
            return None if given == INSIDE else {"id": given}
        return given

    @field_validator("device_map")
    @classmethod
    def _take_all_devices(cls, device_map: str | None, info: ValidationInfo) -> str | None:
        device = info.data.get("device", "auto")
        if device_map is not None and device != "auto":
            raise ValueError(
                f"it spreads the model over all devices, and device is {device!r}; leave one of the two out"
            )
        return device_map

    @field_validator("backbone_weights")
    @classmethod
    def _are_whole(cls, weights: Any, info: ValidationInfo) -> Any:
        if weights is not None and info.data.get("quantization") is not None:
            raise ValueError(
                "they replace whole weights, and quantization is given; leave one of the two out"
            )
        return weights

    @field_validator("system")
    @classmethod
    def _know_named_lines(cls, system: str | None) -> str | None:
        if system is not None:
            read_system_line(system)
        return system

    @field_validator("reasoning")
    @classmethod
    def _tell_the_marks_apart(cls, marks: Any) -> Any:
        if not isinstance(marks, tuple):
            return marks
        # Answers have no white space around them, so that a mark with some might never be found.
        marks = tuple(mark.strip() for mark in marks)
        check_marks(marks)
        return marks

    @model_serializer(mode="wrap")
    def _leave_out_what_is_usual(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Records of specs that name neither stay those of releases that knew none: the same run is found again.
        content: dict[str, Any] = write(self)
        for name, usual in (("reasoning", "auto"), ("backbone_weights", None), ("backbone", None)):
            if content.get(name, 0) == usual:
                del content[name]
        return content

    @property
    def asked_for(self) -> str:
        """Identify the model within a spec, before its revision is resolved."""
        adapter = "" if self.adapter is None else f"+{self.adapter.id}@{self.adapter.revision}"
        backbone = "" if self.backbone_weights is None else f"+{self.backbone_weights.gguf}"
        return self.name or f"{self.id}@{self.revision}{backbone}{adapter}"

    @property
    def wanted_device(self) -> str:
        """The requested device; `all` with a device map."""
        return self.device if self.device_map is None else "all"

    @property
    def wanted_devices(self) -> list[str]:
        """The devices that it and its backbone ask for."""
        own = None if self.backbone is None else self.backbone.device
        return [self.wanted_device, *([] if own is None else [own])]

    def start_paths(self, folder: Path) -> Self:
        """Make ids that are folders below `folder` absolute."""
        adapter = self.adapter
        if adapter is not None:
            adapter = adapter.model_copy(update={"id": _start(folder, adapter.id)})
        weights = self.backbone_weights
        if weights is not None:
            path = folder / expand_home(weights.gguf, field="model.backbone_weights.gguf")
            weights = weights.model_copy(update={"gguf": str(path)})
        backbone = self.backbone
        if backbone is not None:
            backbone = backbone.model_copy(update={"id": _start(folder, backbone.id)})
        return self.model_copy(
            update={
                "id": _start(folder, self.id),
                "adapter": adapter,
                "backbone_weights": weights,
                "backbone": backbone,
            }
        )


def _start(folder: Path, given: str) -> str:
    local = folder / expand_home(given, field="model")
    return str(local) if is_folder(local) else given
