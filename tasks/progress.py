"""How far a stage is, told to whoever listens: tasks report rows, the command line draws a bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[int], None]

_listener: ContextVar[Listener | None] = ContextVar("cmrm_progress", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call `listener` with the number of rows finished, each time some are, while the body runs."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report_rows(count: int) -> None:
    """Tell that `count` more rows are finished; nobody need be listening."""
    listener = _listener.get()
    if listener is not None:
        listener(count)
