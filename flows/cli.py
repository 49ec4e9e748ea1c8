"""The command line. A mistake by the user costs a line that says what, where and how to mend it, and status 2.

Only the command that is given is imported, and `cmrm --help` imports none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING

from flows.process import INTERRUPTED, collect_rarely, ended_at_once

if TYPE_CHECKING:
    from cyclopts import App

USER_MISTAKE = 2
HELP = "Measure what images do to a vision-language model's safety, and undo it."
# Where each command is, and the first line of its own help.
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": (
            "flows.commands.run:run",
            "Run a spec: embed, measure Δ, answer, judge, report. The same command again resumes.",
        ),
        "sql": (
            "flows.commands.sql:sql",
            "Ask the store in SQL (DuckDB, read-only). Without a query: its views, their columns, and the macros.",
        ),
        "compare": (
            "flows.commands.compare:compare",
            "Hold two finished runs against each other, sample by sample; status 1 if the later one regressed.",
        ),
        "watch": (
            "flows.commands.watch:watch",
            "Notice a model's new revision, run the spec on it, and say whether safety got worse than in the last run.",
        ),
        "judge": (
            "flows.judge_commands:judge",
            "Add judges to a finished run: a new run with the same answers, and no model asked again.",
        ),
        "judges": (
            "flows.judge_commands:judges",
            "List the kinds of judges, cmrm's own and those of installed packages, with their options.",
        ),
        "doctor": (
            "flows.commands.doctor:doctor",
            "Check in a minute, on a real model, that reading and steering do what they say; "
            "status 1 if a check fails.",
        ),
        "store": (
            "flows.store_commands:app",
            "Look after a store: list it, verify it, tidy it, compare two runs of it.",
        ),
    }
)
WIDTH = 80


def make_app() -> App:
    """The command line, whose commands are imported when they are given."""
    from importlib.metadata import version

    from cyclopts import App

    # Its version is named, since cyclopts would look for that of a distribution called as this module's package is.
    app = App(name="cmrm", help=HELP, version=lambda: version("cmrm"), suppress_keyboard_interrupt=False)
    for name, (place, _) in COMMANDS.items():
        app.command(place, name=name)
    return app


def print_help() -> None:
    """Print what commands there are, without importing any."""
    print(f"Usage: cmrm COMMAND\n\n{HELP}\n\nCommands:")  # noqa: T201 - what was asked for
    indent = 2 + max(map(len, COMMANDS)) + 2
    for name, (_, summary) in COMMANDS.items():
        first, *rest = wrap(summary, WIDTH - indent)
        print(f"  {name:<{indent - 2}}{first}")  # noqa: T201 - as above
        for line in rest:
            print(f"{'':<{indent}}{line}")  # noqa: T201 - as above
    print("\nOptions:\n  --help, -h   This text; cmrm COMMAND --help has that command's.")  # noqa: T201 - as above
    print("  --version    The version.")  # noqa: T201 - as above


def start() -> None:
    """Entry point of `cmrm` in a process of its own."""
    with ended_at_once():
        collect_rarely()
        main()


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the command that is given, in this process.

    Exits with 0, 1 for what `compare` or `store` found, 2 for a mistake by the user, 130 when interrupted and 143 when
    terminated.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in {"--help", "-h"}:
        print_help()
        return
    _run(given)


def _run(given: Sequence[str]) -> None:
    from cyclopts import CycloptsError

    from cmrm.errors import UserError
    from flows.errors import ServerLostError
    from storage.errors import StoreError
    from tasks.stopping import TERMINATED, StoppedError, stop_on_sigterm

    stop_on_sigterm()
    try:
        make_app()(given, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        sys.exit(USER_MISTAKE)  # already explained
    except ServerLostError as error:
        _tell(f"cmrm: {error}")
        # Prefect would try for minutes to send the rest to a server that is gone, and say so each time.
        os._exit(USER_MISTAKE)
    except (UserError, StoreError) as error:
        _tell(f"cmrm: {error}")
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        _tell("cmrm: stopped. What is finished is kept; the same command again goes on.")
        sys.exit(INTERRUPTED)
    except StoppedError:
        _tell("cmrm: terminated. What is finished is kept; the same command again goes on.")
        sys.exit(TERMINATED)


def _tell(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from flows.terminal import show_safely

    Console(stderr=True).print(Text(show_safely(text)), soft_wrap=True)
