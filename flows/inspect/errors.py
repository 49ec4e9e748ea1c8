"""Mistakes of a user as Inspect's own kind of error, which its command line prints without a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from inspect_ai._util.error import PrerequisiteError
from rich.markup import escape

from cmrm.errors import UserError
from storage.errors import StoreError


@contextmanager
def telling_inspect() -> Iterator[None]:
    """Raise a mistake as Inspect's `PrerequisiteError`, of which its command line shows the message.

    Mistakes are a `UserError` and a `StoreError` of the body.
    """
    try:
        yield
    except (UserError, StoreError) as error:
        # Inspect prints messages as rich's markup.
        raise PrerequisiteError(escape(str(error))) from None
