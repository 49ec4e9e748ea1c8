"""`cmrm watch`: look once, or again and again, and print what each look came to."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from flows.server.client import Ready, quiet_prefect, reach_server, told_of_a_lost_server
from flows.terminal import show_safely
from storage.errors import StoreError

if TYPE_CHECKING:
    from flows.watch import Look

# What `--once` ends with; what cannot be done or is a mistake ends with 2 like every command.
STATUS = {"Regressed": 1, "Unjudged": 2}


def watch_once(spec: Path, *, server: str | None, **options: str | None) -> int:
    """Look once and print it; the exit status. Raises `UserError` or `StoreError` where it could not be done.

    The `options` are those of the flow: `store` and `workers`.
    """
    quiet_prefect()
    found = _look(spec, reach_server(server), options)
    _print(Console(), found)
    return STATUS.get(found.said, 0)


def watch_on(spec: Path, *, server: str | None, seconds: float, **options: str | None) -> None:
    """Look every so many seconds until interrupted; what could not be done is said, and tried at the next look."""
    quiet_prefect()
    console = Console()
    ready: Ready | None = None
    while True:
        try:
            ready = ready or reach_server(server)
            _print(console, _look(spec, ready, options), at=datetime.now(UTC))
        except (UserError, StoreError) as error:
            ready = None  # whichever server comes up next
            line = f"Could not be done: {error} The next look is in {seconds:g} s."
            console.print(
                Text(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC  {show_safely(line)}"), soft_wrap=True
            )
        threading.Event().wait(seconds)


def _look(spec: Path, ready: Ready, options: Mapping[str, str | None]) -> Look:
    from flows.watch import watch_deployed

    with ready(), told_of_a_lost_server():
        state: Any = watch_deployed(str(spec), **options, return_state=True)
        found: Look = state.result()
        return found


def _print(console: Console, found: Look, *, at: datetime | None = None) -> None:
    when = "" if at is None else f"{at:%Y-%m-%d %H:%M} UTC  "
    text = Text(show_safely(f"{when}{found.text}"))
    if found.said in STATUS:
        text.stylize("bold red")
    console.print(text, soft_wrap=True)
    if found.report is not None:
        console.print(Text(f"Report: {found.report}"), soft_wrap=True)
