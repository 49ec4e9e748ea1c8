"""Names in Inspect's registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Made = TypeVar("Made", bound=Callable[..., Any])

# Inspect puts the top-level package of a function's module before its name, if that package is installed, and finds
# what is named so by the entry point of the same name.
PACKAGE = "cmrm"


def named_for_inspect(function: Made, name: str) -> Made:
    """Make Inspect register a function as `cmrm/name`, whatever package it is defined in."""
    function.__module__ = PACKAGE
    function.__name__ = function.__qualname__ = name
    return function
