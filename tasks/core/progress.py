"""Progress of a stage: tasks report finished rows to a listener, such as the command line's progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int], None]

_listener: ContextVar[Listener | None] = ContextVar("cmrm_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with the number of newly finished rows, each time there are some, while the body runs."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report_rows(count: int) -> None:
    """Report `count` more finished rows to the listener, if there is one."""
    listener = _listener.get()
    if listener is not None:
        listener(count)
