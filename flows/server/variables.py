"""Prefect variables in an option: `{{ prefect.variables.NAME }}` stands for the value that it has when a flow runs."""

from __future__ import annotations

import re
from collections.abc import Callable

from cmrm.errors import UserError
from cmrm.untrusted.printable import show, show_value

_PLACEHOLDER = re.compile(r"\{\{\s*prefect\.variables\.([\w-]+)\s*\}\}")


def list_variables(text: str) -> list[str]:
    """Name the variables that a text refers to, each once."""
    return list(dict.fromkeys(_PLACEHOLDER.findall(text)))


def check_placeholders(text: str, *, where: str) -> None:
    """Raise `UserError` if a text holds a placeholder that is none of a variable, and would be taken as it stands."""
    if "{{" in _PLACEHOLDER.sub("", text):
        raise UserError(
            f"{where}: {show_value(text)} holds a placeholder that names no Prefect variable; write "
            "'{{ prefect.variables.NAME }}'."
        )


def resolve_variables(text: str | None, *, where: str) -> str | None:
    """Replace each placeholder by the variable's value on the Prefect server; `where` names the option in messages.

    Raises `UserError` for a variable that is not set or holds no text, and for any other placeholder.
    """
    if text is None:
        return None
    check_placeholders(text, where=where)
    if not list_variables(text):
        return text
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:

        def read(name: str) -> object:
            variable = client.read_variable_by_name(name)
            return None if variable is None else variable.value

        return fill_in(text, read, where=where)


def fill_in(text: str, read: Callable[[str], object], *, where: str) -> str:
    """Replace each placeholder by what `read` returns for its variable, None if it is not set."""

    def replace(match: re.Match[str]) -> str:
        value = read(match[1])
        if not isinstance(value, str) or not value:
            lacks = "is not set" if value is None else "holds no text"
            raise UserError(
                f"{where}: the Prefect variable {show(match[1])} {lacks}: prefect variable set {show(match[1])} VALUE"
            )
        return value

    return _PLACEHOLDER.sub(replace, text)
