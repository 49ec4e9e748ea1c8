"""Options of a kind of plug-in: validate a spec's options against the fields of its class."""

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
from cmrm.plugins import Base, Plugins


def list_options(plugins: Plugins[Any], kind: str) -> list[Field[Any]]:
    """List the fields of a kind that a spec may set; raises `UserError` for an unknown kind."""
    return [field for field in fields(plugins.find(kind)) if field.init]


def check_options(plugins: Plugins[Any], kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Validate options against the fields of the kind; return them as JSON types.

    Raises pydantic's `ValidationError`, which names the option, for one that is unknown, missing or of the wrong type,
    and `UserError` for an unknown kind and for values that the class itself rejects.
    """
    checked = _check(plugins, kind, options)
    _make(plugins, kind, checked)
    return _to_json(checked)


def build_plugin(plugins: Plugins[Base], kind: str, options: Mapping[str, Any]) -> Base:
    """Construct a kind from options as `check_options` returns them."""
    return _make(plugins, kind, _check(plugins, kind, options))


def read_options(plugins: Plugins[Any], plugin: Any) -> dict[str, Any]:
    """The options that make an equal object, as JSON types: those that differ from their defaults."""
    given = {}
    for field in list_options(plugins, plugin.kind):
        value = getattr(plugin, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value != default:
            given[field.name] = value
    return _to_json(_check(plugins, plugin.kind, given))


def fill_options(plugins: Plugins[Any], kind: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of a kind as JSON types: the given ones, and the defaults of the others."""
    return _check(plugins, kind, options).model_dump(mode="json")


def _check(plugins: Plugins[Any], kind: str, options: Mapping[str, Any]) -> BaseModel:
    known = [field.name for field in list_options(plugins, kind)]
    unknown = [
        InitErrorDetails(
            type=PydanticCustomError(
                "unknown_option",
                "{word} '{kind}' has no such option; it has {known}",
                {"word": plugins.word, "kind": kind, "known": ", ".join(known)},
            ),
            loc=(str(name),),
            input=value,
        )
        for name, value in options.items()
        if name not in known
    ]
    if unknown:
        raise ValidationError.from_exception_data(kind, unknown)
    found: Any = plugins.find(kind)
    return _make_checker(found).model_validate(dict(options))


def _make(plugins: Plugins[Base], kind: str, checked: BaseModel) -> Base:
    return plugins.make(kind, **{name: getattr(checked, name) for name in checked.model_fields_set})


def _to_json(checked: BaseModel) -> dict[str, Any]:
    return checked.model_dump(mode="json", exclude_unset=True)


@cache
def _make_checker(kind: Any) -> type[BaseModel]:
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


def _find_type(kind: type[Any], name: str) -> Any:
    """Resolve the type of one field alone: other annotations may name imports for type checkers only."""
    owner = next(one for one in kind.__mro__ if name in inspect.get_annotations(one))
    alone = type(name, (), {"__annotations__": {name: inspect.get_annotations(owner)[name]}})
    try:
        return get_type_hints(alone, vars(sys.modules[owner.__module__]), include_extras=True)[name]
    except NameError as error:
        raise UserError(
            f"{kind.kind!r}: the type of its option {name!r} cannot be found ({error}); import it where the "
            "class is defined."
        ) from error
