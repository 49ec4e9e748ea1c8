"""Base class of all sections of a spec: frozen, no unknown fields, no booleans as numbers."""

from __future__ import annotations

import types
import typing
from functools import cache
from typing import Annotated, Any, Union

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo, field_validator

from cmrm.untrusted.printable import is_blank


def refuse_boolean(value: Any) -> Any:
    """Return a value unchanged; raises `ValueError` for booleans, which Python treats as 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("give a number, not true or false")  # noqa: TRY004 - pydantic turns it into a validation error
    return value


def refuse_blank(name: str) -> str:
    """Return a name unchanged; raises `ValueError` for one without visible characters."""
    if is_blank(name):
        raise ValueError("give a name with visible characters")
    return name


def refuse_no_path(path: str) -> str:
    """Return a path unchanged; raises `ValueError` for an empty one, which would mean the current folder."""
    if is_blank(path):
        raise ValueError("give a path, or . for the folder of the spec")
    return path


def refuse_no_id(given: str) -> str:
    """Return the id of a model unchanged; raises `ValueError` for an empty one."""
    if is_blank(given):
        raise ValueError("give an id on the hub, such as owner/name, or the path of a folder")
    return given


Whole = Annotated[int, BeforeValidator(refuse_boolean)]
Number = Annotated[float, BeforeValidator(refuse_boolean)]
Name = Annotated[str, AfterValidator(refuse_blank)]
PathText = Annotated[str, AfterValidator(refuse_no_path)]
ModelId = Annotated[str, AfterValidator(refuse_no_id)]


class Section(BaseModel):
    """A section of a spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _take_no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        is_number = isinstance(value, bool) and info.field_name and _is_number(cls, info.field_name)
        return refuse_boolean(value) if is_number else value


def list_members(annotation: Any) -> list[Any]:
    """List the member types of a union, or the one type; without None."""
    if typing.get_origin(annotation) is Annotated:
        return list_members(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in {Union, types.UnionType}:
        return [one for part in typing.get_args(annotation) for one in list_members(part)]
    return [] if annotation is types.NoneType else [annotation]


@cache
def _is_number(section: type[BaseModel], field: str) -> bool:
    members = list_members(section.model_fields[field].annotation)
    return bool not in members and (int in members or float in members)
