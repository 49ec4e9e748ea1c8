"""Log a finished run to sinks: on request, or at the end of a run, whose result no sink may spoil."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from cmrm.untrusted.printable import first_line, show
from cmrm.untrusted.redaction import redact_known
from flows.sinks import Sink, make_sinks
from flows.sinks.read import read_run
from flows.sinks.sink import LoggedRun
from flows.terminal.safe_text import show_safely
from storage.errors import StoreError
from storage.store import Store

log = logging.getLogger("cmrm.flows")

# Sinks of runs that are not told of any otherwise, such as those of a deployment's worker.
VARIABLE = "CMRM_LOG_TO"


def choose_kinds(given: Sequence[str] | None) -> list[str]:
    """The sinks that were named, else those of CMRM_LOG_TO, separated by blanks."""
    return [*(given or os.environ.get(VARIABLE, "").split())]


def make_flow_sinks(given: Sequence[str] | None) -> dict[str, Sink]:
    """Make the sinks of a flow run; raises `UserError` for one that is not ready.

    A deployment's flow run has a working folder of its own, so one that would keep runs there is not.
    """
    from prefect.runtime import deployment

    sinks = make_sinks(choose_kinds(given))
    if deployment.id is not None:
        for sink in sinks.values():
            sink.check_lasting()
    return sinks


def log_run(run: LoggedRun, sinks: Mapping[str, Sink]) -> Iterator[tuple[str, str]]:
    """Log a run to each sink, and yield its kind and where people find the run.

    Raises `UserError` for a sink that failed, without its secrets.
    """
    for kind, sink in sinks.items():
        try:
            where = sink.log(run)
        except UserError:
            raise
        except Exception as error:
            # A library of a sink raises what it likes.
            raise UserError(
                f"{kind}: {type(error).__name__}: {show(redact_known(first_line(error)))}"
            ) from error
        yield kind, redact_known(where)


def log_afterwards(run_id: str, store: str, sinks: Mapping[str, Sink], *, say: Callable[[str], None]) -> None:
    """Log a run that has just finished; a sink that fails costs a warning, with the command that logs it later."""
    if not sinks:
        return
    try:
        run = read_run(Store.open(store), run_id)
    except (UserError, StoreError) as error:
        _warn(run_id, store, [*sinks], error)
        return
    for kind, sink in sinks.items():
        try:
            for _, where in log_run(run, {kind: sink}):
                say(f"Logged to {kind}: {where}")
        except (UserError, StoreError) as error:
            _warn(run_id, store, [kind], error)


def _warn(run_id: str, store: str, kinds: Sequence[str], error: Exception) -> None:
    to = " ".join(f"--to {kind}" for kind in kinds)
    line = (
        f"run {run_id} is finished, and was not logged: {redact_known(str(error))} Log it later: cmrm log {run_id} "
        f"{to} --store {shlex.quote(store)}"
    )
    log.warning("%s", line)
    # Prefect's console log is silenced, but the terminal, or a mail from cron, should show it.
    Console(stderr=True).print(Text(show_safely(f"cmrm: {line}")), soft_wrap=True)
