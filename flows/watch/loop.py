"""`cmrm watch`: poll once or in a loop, and print the result of each poll."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from cmrm.untrusted.redaction import redact_known
from flows.debugging import show_traceback
from flows.server.client import Ready, quiet_prefect, reach_server, translate_server_errors
from flows.server.monitor import keep_waiting, when_lost
from flows.terminal.safe_text import show_safely
from storage.errors import StoreError

if TYPE_CHECKING:
    from flows.watch.poll import PollResult

# Exit statuses of `--once`; errors exit with 2 as in every command.
STATUS = {"Regressed": 1, "Unjudged": 2}


def watch_once(spec: Path, *, server: str | None, **options: Any) -> int:
    """Poll once and print the result; returns the exit status. Raises `UserError` or `StoreError` if it fails.

    `options` are those of the flow: `store`, `workers` and `log_to`.
    """
    quiet_prefect()
    found = _poll(spec, reach_server(server), options)
    _print(Console(), found)
    return STATUS.get(found.outcome, 0)


def watch_on(spec: Path, *, server: str | None, seconds: float, **options: Any) -> None:
    """Poll every `seconds` until interrupted; errors are printed, and retried at the next poll."""
    quiet_prefect()
    console = Console()
    ready: Ready | None = None
    # Retry at the next poll if the server is lost.
    when_lost.set(keep_waiting)
    while True:
        try:
            ready = ready or reach_server(server)
            _print(console, _poll(spec, ready, options), at=datetime.now(UTC))
        except (UserError, StoreError) as error:
            ready = None  # reach the server anew at the next poll
            show_traceback(error)
            line = f"Poll failed: {error} The next poll is in {seconds:g} s."
            console.print(
                Text(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC  {show_safely(redact_known(line))}"),
                soft_wrap=True,
            )
        threading.Event().wait(seconds)


def _poll(spec: Path, ready: Ready, options: Mapping[str, Any]) -> PollResult:
    from flows.watch.poll import watch_deployed

    with ready(), translate_server_errors():
        state: Any = watch_deployed(str(spec), **options, return_state=True)
        found: PollResult = state.result()
        return found


def _print(console: Console, found: PollResult, *, at: datetime | None = None) -> None:
    when = "" if at is None else f"{at:%Y-%m-%d %H:%M} UTC  "
    text = Text(show_safely(f"{when}{found.text}"))
    if found.outcome in STATUS:
        text.stylize("bold red")
    console.print(text, soft_wrap=True)
    if found.report is not None:
        console.print(Text(f"Report: {found.report}"), soft_wrap=True)
