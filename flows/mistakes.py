"""A spec's mistakes in a user's words: the field's full path, the value, and the fix."""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel


def explain_mistake(problem: Any, root: type[BaseModel]) -> str:
    """Put one of pydantic's errors about a model of type `root` into a line."""
    # A union's members add their names to the path; a person wrote the field only.
    path = ".".join(str(step) for step in problem["loc"] if not _names_a_type(step))
    if problem["type"] == "extra_forbidden":
        return _correct_the_name(path, problem["loc"], root)
    if problem["type"] == "missing":
        return f"{path}: this field is missing. Add it."
    message = problem["msg"].removeprefix("Value error, ").removesuffix(".")
    shown = "" if isinstance(problem["input"], dict) else f" (it is {problem['input']!r})"
    return f"{path}{shown}: {message}." if path else f"{message}."


def _correct_the_name(path: str, location: tuple[Any, ...], root: type[BaseModel]) -> str:
    known = _fields_at(location[:-1], root)
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"{path}: no such field. " + (
        f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(known)}."
    )


def _names_a_type(step: Any) -> bool:
    return isinstance(step, str) and (step in {"float", "int", "str"} or "[" in step or "literal" in step)


def _fields_at(location: tuple[Any, ...], root: type[BaseModel]) -> list[str]:
    """The names that the section at a place of the spec knows."""
    section = root
    for step in location:
        names = {field.alias or name: field for name, field in section.model_fields.items()}
        if step in names:
            section = _find_section(names[step].annotation) or section
    return [field.alias or name for name, field in section.model_fields.items()]


def _find_section(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    parts = getattr(annotation, "__args__", ())
    return next((found for part in parts if (found := _find_section(part))), None)
