"""Validation errors of a spec for users: one line each, with the field's full path, the value, and the fix."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, Discriminator, ValidationError

from cmrm.untrusted.printable import show, show_names, show_value
from flows.spec.section import list_members

# Most lines printed; a long list may be wrong in each of its values.
MOST_LINES = 20
MOST_PROBLEMS = 1000
MOST_CHARACTERS = 600
# Pydantic's prefix of an expected type.
_ASKED = "Input should be "
# Pydantic's location of an invalid key of a mapping.
_KEY = "[key]"
# Errors whose value is not shown: the value of an unknown option may be a secret.
_UNSHOWN = {"unknown_option"}
# Errors of a value that has the right type.
_PRECISE = {"value_error", "too_long", "too_short"}

Location = tuple[int | str, ...]
Role = typing.Literal["field", "label", "tag"]


def explain_mistakes(error: ValidationError, root: Any) -> list[str]:
    """Format pydantic's errors about a value of type `root`: one line per error, and one counting those left out."""
    found = error.errors(include_url=False)
    problems: list[Any] = []
    for of_one_field in _group_by_field(_drop_consequences(found[:MOST_PROBLEMS], root), root).values():
        problems += _choose(of_one_field, root)
    lines = list(_explain_each(problems, root))
    shown = [show(line, most=MOST_CHARACTERS) for line in lines[:MOST_LINES]]
    left = len(lines) - len(shown) + len(found[MOST_PROBLEMS:])
    return shown + ([f"and {left} more like these."] if left else [])


def _drop_consequences(problems: list[Any], root: Any) -> list[Any]:
    """Drop problems that follow from others.

    A misspelt field is also missing, and a list with a rejected value may be too short.
    """
    above = {problem["loc"][:length] for problem in problems for length in range(len(problem["loc"]))}
    misspelt = {
        (*problem["loc"][:-1], near)
        for problem in problems
        if problem["type"] == "extra_forbidden" and (near := _find_near(problem["loc"], root))
    }
    return [
        problem
        for problem in problems
        if not (problem["type"] == "too_short" and problem["loc"] in above)
        and not (problem["type"] == "missing" and problem["loc"] in misspelt)
    ]


def _group_by_field(problems: list[Any], root: Any) -> dict[Location, list[Any]]:
    """Group problems by field; those of all members of a union form one group."""
    grouped: dict[Location, list[Any]] = {}
    for problem in problems:
        location = problem["loc"]
        labels = [place for place, (_, role) in enumerate(_walk(location, root)) if role == "label"]
        grouped.setdefault(location[: labels[0]] if labels else location, []).append(problem)
    return grouped


def _choose(problems: list[Any], root: Any) -> list[Any]:
    """Choose the problems of one field to report: of a union, those of the deepest matching member, else one joined."""
    paths = [_name_path(problem["loc"], root) for problem in problems]
    furthest = max(map(len, paths))
    found = [problem for problem, path in zip(problems, paths, strict=True) if len(path) == furthest]
    if len(found) > 1 and len(set(map(len, paths))) == 1:
        return [_join(found)]
    return found


def _explain_each(problems: list[Any], root: Any) -> Iterator[str]:
    """Format one line per problem; values of a list with the same problem share a line."""
    alike: dict[tuple[Any, ...], list[Any]] = {}
    for problem in problems:
        location = problem["loc"]
        of_a_list = bool(location) and isinstance(location[-1], int)
        alike.setdefault((location[:-1] if of_a_list else location, problem["msg"]), []).append(problem)
    for first, *others in alike.values():
        yield _explain(first, root) + (f" So are {len(others)} more values of that list." if others else "")


def _join(problems: list[Any]) -> Any:
    """Join the problems of a union's members into one, or return the most precise of them."""
    precise = [problem for problem in problems if problem["type"] in _PRECISE]
    if precise:
        return precise[0]
    asked = dict.fromkeys(
        problem["msg"].removeprefix(_ASKED).partition(", unable to")[0] for problem in problems
    )
    return {**problems[0], "msg": _ASKED + ", or ".join(asked)}


def _explain(problem: Any, root: Any) -> str:
    path = ".".join(_name_path(problem["loc"], root))
    if problem["type"] == "extra_forbidden":
        return _correct_the_name(path, problem["loc"], root)
    if problem["type"] == "missing":
        return f"{path}: this field is missing. Add it."
    if problem["loc"][-1:] == (_KEY,) or problem["type"] == "invalid_key":
        return f"{path}: this name is not text. Put it in quotes."
    message = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    if problem["type"] == "too_short":
        message = f"give at least {problem['ctx']['min_length']}"
    if problem["type"] == "too_long":
        message = f"give at most {problem['ctx']['max_length']}"
    value = problem["input"]
    hidden = isinstance(value, Mapping) or problem["type"] in _UNSHOWN
    shown = "" if hidden else f" (it is {show_value(value)})"
    return f"{path}{shown}: {message}." if path else f"{message}."


def _correct_the_name(path: str, location: Location, root: Any) -> str:
    near = _find_near(location, root)
    return f"{path}: no such field. " + (
        f"Did you mean {near!r}?" if near else f"Known: {show_names(_fields_at(location[:-1], root))}."
    )


def _find_near(location: Location, root: Any) -> str | None:
    """Find the field whose name is most similar to the last step of a location."""
    near = difflib.get_close_matches(str(location[-1])[:100], _fields_at(location[:-1], root), n=1)
    return near[0] if near else None


def _name_path(location: Location, root: Any) -> list[str]:
    return [show(step, most=60) for step, role in _walk(location, root) if role == "field"]


def _walk(location: Location, root: Any) -> Iterator[tuple[int | str, Role]]:
    """Walk the steps of a location: fields, and pydantic's labels of union members.

    A union with a discriminator has a tag in place of a label: only that member was tried.
    """
    at = root
    options = 0
    for step in location:
        if step == _KEY:
            continue
        members, is_tagged = list_members(at), _has_discriminator(at)
        at = members[0] if members else Any
        if len(members) > 1:
            at = next((one for one in members if _is_named(one, str(step))), Any)
            yield step, "tag" if is_tagged else "label"
        elif _is_section(at):
            field = _name_fields(at).get(str(step))
            at = Any if field is None else field.annotation
            # An option of a defence, whose type depends on its kind.
            options += field is None
            yield step, "field"
        elif typing.get_origin(at) in {list, tuple, dict}:
            is_mapping = typing.get_origin(at) is dict
            at = typing.get_args(at)[1 if is_mapping else 0]
            yield step, "field"
        else:
            # Options of a judge, whose types depend on its kind: the first step is the option's name.
            is_label = options > 0 and isinstance(step, str) and _looks_like_a_type(step)
            yield step, "label" if is_label else "field"
            options += 1


def _has_discriminator(annotation: Any) -> bool:
    return any(isinstance(one, Discriminator) for one in getattr(annotation, "__metadata__", ()))


def _is_named(member: Any, label: str) -> bool:
    if typing.get_origin(member) is list:
        return label.startswith("list[")
    return _is_section(member) and label == member.__name__


def _looks_like_a_type(step: str) -> bool:
    return step in {"float", "int", "str", "bool"} or "[" in step


def _is_section(annotation: Any) -> typing.TypeGuard[type[BaseModel]]:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _name_fields(section: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in section.model_fields.items()}


def _fields_at(location: Location, root: Any) -> list[str]:
    """List the field names of the section at a location."""
    at = root
    for step in location:
        members = list_members(at)
        named = [one for one in members if len(members) > 1 and _is_named(one, str(step))]
        (at,) = (named or members)[:1] or (Any,)
        if named:
            continue
        if _is_section(at):
            at = _name_fields(at)[str(step)].annotation
        elif arguments := typing.get_args(at):
            at = arguments[-1]
    (at,) = list_members(at)[:1] or (Any,)
    return list(_name_fields(at)) if _is_section(at) else []
