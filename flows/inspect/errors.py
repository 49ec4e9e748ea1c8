"""Mistakes of a user as Inspect's own kind of error, which its command line prints without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai._util.error import PrerequisiteError
from rich.markup import escape

from cmrm.errors import UserError


@contextmanager
def telling_inspect() -> Iterator[None]:
    """Raise a `UserError` of the body as Inspect's `PrerequisiteError`, of which its command line shows the message."""
    try:
        yield
    except UserError as error:
        # Inspect prints messages as rich's markup.
        raise PrerequisiteError(escape(str(error))) from None
