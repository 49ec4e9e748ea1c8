"""Reject secrets in a spec or an option before anything is written, since both are stored with each run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cmrm.errors import UserError
from cmrm.untrusted.redaction import find_secrets, holds_bad_port, holds_credentials, redact
from storage.backends.base import check_url
from storage.errors import StoreError

# Field names that libraries use for secrets, at any depth of a spec.
_SECRET_FIELD = re.compile(
    r"(?:^|_)(?:api_?key|(?:private|account|shared|access|subscription|signing|secret)_key(?:_id)?|secret|passw(?:or)?d|"
    r"passphrase|credentials?|authorization|auth|sas|connection_string)(?:_|$)|"
    r"^(?:key|token|bearer|pwd|.*(?:access|auth|api|hf|hub|session|security|bearer|refresh|id)_token|sas_token)$"
)
# Exceptions such as `key_variable`, which name where a secret is.
_NAMES_A_PLACE = re.compile(r"_(?:variable|variables|env|file|path|id_field)$")
_BAD_PORT = (
    "has a port that is not a number, and is not shown here, since it may be a password: correct or remove it"
)
_ELSEWHERE = "leave it out, and set it in the environment"


def find_secret(content: Any, path: str = "") -> str | None:
    """Describe where a spec holds a secret, and the fix, without the secret; None if it holds none."""
    known = find_secrets()
    return next(_list_secrets(content, path, known), None)


def refuse_credentials(text: str, *, where: str, fix: str) -> None:
    """Raise `UserError` for a URL in an option or variable that holds a user, a password or a signature."""
    if holds_bad_port(text):
        raise UserError(f"{where}: its URL {_BAD_PORT}.")
    if holds_credentials(text):
        raise UserError(
            f"{where}: its URL holds a user, a password or a signature, which is not shown here: {fix}."
        )


def _list_secrets(value: Any, path: str, known: frozenset[str]) -> Iterator[str]:
    match value:
        case Mapping():
            for name, one in value.items():
                field = str(name)
                field_path = f"{path}.{field}" if path else field
                if holds_credentials(field) or redact(field, known) != field:
                    yield f"{path or 'spec'}: the name of one of its fields holds a secret: {_ELSEWHERE}"
                elif _is_secret_field(field, one):
                    yield f"{field_path}: a secret is given here, and a spec is stored with each run: {_advise(path)}"
                else:
                    yield from _list_secrets(one, field_path, known)
        case str() | Path():
            yield from _check_text(str(value), path, known)
        case list() | tuple():
            for number, one in enumerate(value):
                yield from _list_secrets(one, f"{path}.{number}" if path else str(number), known)
        case _ if hasattr(value, "options"):
            yield from _list_secrets(value.options, path, known)


def _check_text(text: str, path: str, known: frozenset[str]) -> Iterator[str]:
    if path == "store":
        try:
            check_url(text)
        except StoreError as error:
            yield f"store: {error}"
            return
    if holds_bad_port(text):
        yield f"{path}: a URL in it {_BAD_PORT}"
    elif holds_credentials(text):
        yield f"{path}: a URL in it holds a user, a password or a signature, which is not shown here: {_ELSEWHERE}"
    elif redact(text, known) != text:
        yield f"{path}: it holds the value of a secret environment variable: leave it out"


def _is_secret_field(name: str, value: Any) -> bool:
    plain = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).replace("-", "_").lower()
    # A mapping may be a data set of that name, a number may count tokens, and an empty value reveals nothing.
    if isinstance(value, Mapping | bool | float) or value in (None, ""):
        return False
    return bool(_SECRET_FIELD.search(plain)) and not _NAMES_A_PLACE.search(plain)


def _advise(path: str) -> str:
    if path.startswith("judges") or path.isdecimal() or not path:
        return "set it as an environment variable, and name that one as key_variable"
    return _ELSEWHERE
