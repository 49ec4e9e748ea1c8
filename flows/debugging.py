"""`--debug` and CMRM_DEBUG=1: print the traceback of an error that is reported in one line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

DEBUG = "--debug"
VARIABLE = "CMRM_DEBUG"
# Values of CMRM_DEBUG that turn it off.
OFF = {"", "0", "false", "no"}


@contextmanager
def debugging() -> Iterator[None]:
    """Print tracebacks in this process and in child processes started in the body."""
    earlier = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1"
    try:
        yield
    finally:
        if earlier is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = earlier


def show_traceback(error: BaseException) -> None:
    """Print an error's traceback to stderr if debugging is on; secrets are redacted."""
    if os.environ.get(VARIABLE, "").lower() not in OFF:
        print(format_traceback(error), end="", file=sys.stderr)  # noqa: T201 - the output itself


def format_traceback(error: BaseException) -> str:
    """Format the tracebacks of an error and its chain of causes, root cause first, with known secrets redacted.

    Contexts suppressed by `from None` are included: they are what a debugging user needs.
    """
    from cmrm.untrusted.redaction import redact_known
    from flows.terminal.safe_text import show_safely

    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        one = one.__cause__ or one.__context__
    texts = ["".join(traceback.format_exception(found, chain=False)) for found in reversed(chain)]
    return show_safely(redact_known("\nThen came:\n\n".join(texts)))
