"""The option `--log-to` of commands that run a spec."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from flows.terminal.safe_text import show_safely

if TYPE_CHECKING:
    from flows.sinks import Sink

VARIABLE = "CMRM_LOG_TO"


def find_sinks(given: Sequence[str]) -> Mapping[str, Sink]:
    """Make the sinks that were asked for, before a run begins; nothing is imported where there are none."""
    if not given and not os.environ.get(VARIABLE):
        return {}
    from flows.sinks import make_sinks
    from flows.sinks.log import choose_kinds

    return make_sinks(choose_kinds(given))


def log_finished(run_id: str, store: str, sinks: Mapping[str, Sink]) -> None:
    """Log a finished run to its sinks, and say where."""
    if not sinks:
        return
    from flows.sinks.log import log_afterwards

    console = Console()
    log_afterwards(
        run_id,
        store,
        sinks,
        say=lambda line: console.print(Text(show_safely(line)), soft_wrap=True),
    )
