"""`cmrm watch`: look once, or again and again, and print what each look came to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from flows.run import QUIET
from flows.terminal import show_safely
from storage.errors import StoreError

if TYPE_CHECKING:
    from flows.watch import Look

# What `--once` ends with; what cannot be done or is a mistake ends with 2 like every command.
STATUS = {"Regressed": 1, "Unjudged": 2}


def watch_once(spec: Path, *, store: str | None, server: str | None) -> int:
    """Look once and print it; the exit status. Raises `UserError` or `StoreError` where it could not be done."""
    found = _look(spec, store, _reach(server))
    _print(Console(), found)
    return STATUS.get(found.said, 0)


def watch_on(spec: Path, *, store: str | None, server: str | None, seconds: float) -> None:
    """Look every so many seconds until interrupted; what could not be done is said, and tried at the next look."""
    console = Console()
    mendable: tuple[type[Exception], ...] = (UserError, StoreError, *_find_prefect_errors())
    ready = None
    while True:
        try:
            ready = ready or _reach(server)
            _print(console, _look(spec, store, ready), at=datetime.now(UTC))
        except mendable as error:
            ready = None  # whichever server comes up next
            line = f"Could not be done: {error} The next look is in {seconds:g} s."
            console.print(
                Text(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC  {show_safely(line)}"), soft_wrap=True
            )
        threading.Event().wait(seconds)


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM end what is within as Ctrl-C does: locks and leases given back, what is finished kept."""

    def interrupt(_signal: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _reach(server: str | None) -> Any:
    _quiet_prefect()
    from flows.server import reach_server

    return reach_server(server)


def _look(spec: Path, store: str | None, ready: Any) -> Look:
    from flows.watch import watch_deployed

    with ready():
        state: Any = watch_deployed(str(spec), store, return_state=True)
        found: Look = state.result()
        return found


def _quiet_prefect() -> None:
    # Prefect reads this when it is imported.
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)


def _find_prefect_errors() -> tuple[type[Exception], ...]:
    _quiet_prefect()
    import httpx
    from prefect.exceptions import PrefectException

    return httpx.HTTPError, PrefectException


def _print(console: Console, found: Look, *, at: datetime | None = None) -> None:
    when = "" if at is None else f"{at:%Y-%m-%d %H:%M} UTC  "
    text = Text(show_safely(f"{when}{found.text}"))
    if found.said in STATUS:
        text.stylize("bold red")
    console.print(text, soft_wrap=True)
    if found.report is not None:
        console.print(Text(f"Report: {found.report}"), soft_wrap=True)
