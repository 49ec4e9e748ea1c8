"""The `cmrm` command line. A user error prints what is wrong, where and how to fix it, and exits with status 2.

Only the module of the given command is imported; `cmrm --help` imports none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from textwrap import wrap
from types import MappingProxyType
from typing import TYPE_CHECKING

from flows.debugging import DEBUG, debugging
from flows.process import INTERRUPTED, collect_rarely, ended_at_once

if TYPE_CHECKING:
    from cyclopts import App

USER_ERROR = 2
HELP = "Measure what images do to a vision-language model's safety, and undo it."
# The entry point of each command, and the first line of its help.
# Commands of a spec, which may be `-`: cyclopts takes a lone hyphen for an option.
OF_SPECS = {"run", "watch", "deploy"}
STANDARD_INPUT = "/dev/stdin"
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "run": (
            "flows.commands.run:run",
            "Run a spec: extract states, measure Δ, answer, judge, report.",
        ),
        "sql": (
            "flows.commands.sql:sql",
            "Query a store with read-only SQL (DuckDB).",
        ),
        "view": (
            "flows.commands.view:view",
            "Look at a store in a browser: runs, reports, comparisons, and SQL as tables and charts.",
        ),
        "report": (
            "flows.commands.report:report",
            "Write the report of a finished run again, or a page of several runs.",
        ),
        "compare": (
            "flows.commands.compare:compare",
            "Compare two finished runs, and fail if the later one is less safe.",
        ),
        "watch": (
            "flows.commands.watch:watch",
            "Poll for new revisions of a model, run each, and compare it with the last.",
        ),
        "deploy": (
            "flows.commands.deploy:deploy",
            "Put a spec on a Prefect server as a deployment, with a schedule and notices.",
        ),
        "judge": (
            "flows.commands.judge:judge",
            "Judge the answers of a finished run with more judges, or other systems' answers beside them.",
        ),
        "judges": (
            "flows.commands.judge:judges",
            "List the kinds of judges and their options.",
        ),
        "calibrate": (
            "flows.commands.calibrate:calibrate",
            "Hold the judges of a finished run against people's labels.",
        ),
        "log": (
            "flows.commands.log:log",
            "Show a finished run in Weights & Biases or MLflow.",
        ),
        "export": (
            "flows.commands.export:export",
            "Write a steered model for other people's engines, or a finished run for other people's tools.",
        ),
        "verify-serving": (
            "flows.commands.verify_serving:verify_serving",
            "Tell by an export's canary.json whether a server, or a folder, steers.",
        ),
        "doctor": (
            "flows.commands.doctor:doctor",
            "Check that a model's states are read and steered correctly.",
        ),
        "store": (
            "flows.commands.store:app",
            "List, verify and clean up a store, or compare two of its runs.",
        ),
    }
)
WIDTH = 80


def make_app() -> App:
    """Build the cyclopts app; a command's module is imported when the command is given."""
    from importlib.metadata import version

    from cyclopts import App

    # Explicit, since cyclopts would look up the version of a distribution named `flows`.
    app = App(name="cmrm", help=HELP, version=lambda: version("cmrm"), suppress_keyboard_interrupt=False)
    for name, (target, _) in COMMANDS.items():
        app.command(target, name=name)
    return app


def print_help() -> None:
    """Print what commands there are, without importing any."""
    print(f"Usage: cmrm COMMAND [OPTIONS]\n\n{HELP}\n\nCommands:")  # noqa: T201 - what was asked for
    indent = 2 + max(map(len, COMMANDS)) + 2
    for name, (_, summary) in COMMANDS.items():
        first, *rest = wrap(summary, WIDTH - indent)
        print(f"  {name:<{indent - 2}}{first}")  # noqa: T201 - as above
        for line in rest:
            print(f"{'':<{indent}}{line}")  # noqa: T201 - as above
    print("\nOptions:\n  --help, -h   Show this help; cmrm COMMAND --help shows that of a command.")  # noqa: T201 - as above
    print("  --version    Show the version.")  # noqa: T201 - as above
    print("  --debug      Show the traceback of an error (also: CMRM_DEBUG=1).")  # noqa: T201


def start() -> None:
    """Entry point of the `cmrm` executable."""
    sys.excepthook = _show_crash
    with ended_at_once():
        collect_rarely()
        main()


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the given command in this process.

    Exits with 0, 1 for a regression, a damaged store or an unsteered server, 2 for a user error, 130 on SIGINT and 143
    on SIGTERM.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if DEBUG in given:
        given.remove(DEBUG)
        with debugging():
            main(given)
        return
    if not given or given[0] in {"--help", "-h"}:
        print_help()
        return
    _run(given)


def _run(given: Sequence[str]) -> None:
    from cyclopts import CycloptsError

    from cmrm.errors import UserError
    from flows.errors import ServerLostError
    from storage.errors import StoreError
    from tasks.core.signals import TERMINATED, StoppedError, stop_on_sigterm, waking_main_thread

    stop_on_sigterm()
    if given[0] in OF_SPECS:
        given = [STANDARD_INPUT if one == "-" else one for one in given]
    try:
        with waking_main_thread():
            make_app()(given, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        sys.exit(USER_ERROR)  # cyclopts has printed the message
    except ServerLostError as error:
        _explain(error)
        # Prefect would retry requests to the lost server for minutes, and log each failure.
        os._exit(USER_ERROR)
    except (UserError, StoreError) as error:
        _explain(error)
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        _print_error("cmrm: interrupted. Finished work is kept; run the same command again to resume.")
        sys.exit(INTERRUPTED)
    except StoppedError:
        _print_error("cmrm: terminated. Finished work is kept; run the same command again to resume.")
        sys.exit(TERMINATED)


def _explain(error: Exception) -> None:
    from flows.debugging import show_traceback

    show_traceback(error)
    _print_error(f"cmrm: {error}")


def _show_crash(_kind: type[BaseException], error: BaseException, _trace: object) -> None:
    """Print the traceback of an unexpected exception, as Python does, with secrets redacted."""
    from flows.debugging import format_traceback

    print(format_traceback(error), end="", file=sys.stderr)  # noqa: T201 - where Python prints it


def _print_error(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from cmrm.untrusted.redaction import redact_known
    from flows.terminal.safe_text import show_safely

    Console(stderr=True).print(Text(show_safely(redact_known(text))), soft_wrap=True)
