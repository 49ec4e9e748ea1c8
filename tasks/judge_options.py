"""The options of a kind of judge: the fields of its class, and what a spec gives checked against them."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic import Field as Option
from pydantic_core import InitErrorDetails, PydanticCustomError

from cmrm.errors import UserError
from cmrm.judges import Judge, find_judge, make_judge


def list_options(kind: str) -> list[Field[Any]]:
    """The fields of a kind of judge that a spec may give; raises `UserError` for an unknown kind."""
    return [field for field in fields(find_judge(kind)) if field.init]


def check_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options as JSON types, each of its field's type.

    Raises pydantic's `ValidationError`, which names the option, for one that is unknown, missing or of another type,
    and `UserError` for an unknown kind and for what the judge itself refuses.
    """
    checked = _check(kind, options)
    _make(kind, checked)
    return _to_json(checked)


def build_judge(kind: str, options: Mapping[str, Any]) -> Judge:
    """Make a judge of options as `check_options` returns them."""
    return _make(kind, _check(kind, options))


def read_options(judge: Judge) -> dict[str, Any]:
    """The options that make an equal judge, as JSON types: those that differ from what their fields have anyway."""
    given = {}
    for field in list_options(judge.kind):
        value = getattr(judge, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value != default:
            given[field.name] = value
    return _to_json(_check(judge.kind, given))


def fill_options(kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a kind as JSON types: those that are given, and of the others what their fields have anyway."""
    return _check(kind, options).model_dump(mode="json")


def _check(kind: str, options: Mapping[str, Any]) -> BaseModel:
    known = [field.name for field in list_options(kind)]
    unknown = [
        InitErrorDetails(
            type=PydanticCustomError(
                "unknown_option",
                "judge '{kind}' has no such option; it has {known}",
                {"kind": kind, "known": ", ".join(known)},
            ),
            loc=(str(name),),
            input=value,
        )
        for name, value in options.items()
        if name not in known
    ]
    if unknown:
        raise ValidationError.from_exception_data(kind, unknown)
    return _make_checker(find_judge(kind)).model_validate(dict(options))


def _make(kind: str, checked: BaseModel) -> Judge:
    return make_judge(kind, **{name: getattr(checked, name) for name in checked.model_fields_set})


def _to_json(checked: BaseModel) -> dict[str, Any]:
    return checked.model_dump(mode="json", exclude_unset=True)


@cache
def _make_checker(kind: type[Judge]) -> type[BaseModel]:
    wanted: dict[str, Any] = {}
    for field in fields(kind):
        if not field.init:
            continue
        if field.default_factory is not MISSING:
            default = Option(default_factory=field.default_factory)
        else:
            default = Option(default=... if field.default is MISSING else field.default)
        wanted[field.name] = (_find_type(kind, field.name), default)
    config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, protected_namespaces=())
    return create_model(kind.__name__, __config__=config, **wanted)


def _find_type(kind: type[Judge], name: str) -> Any:
    """The type of one field: others may name what is imported for type checkers only."""
    owner = next(one for one in kind.__mro__ if name in inspect.get_annotations(one))
    alone = type(name, (), {"__annotations__": {name: inspect.get_annotations(owner)[name]}})
    try:
        return get_type_hints(alone, vars(sys.modules[owner.__module__]), include_extras=True)[name]
    except NameError as error:
        raise UserError(
            f"judge {kind.kind!r}: the type of its option {name!r} cannot be found ({error}); import it where the "
            "class is defined."
        ) from error
