"""The command line. A mistake by the user costs a line that says what, where and how to mend it, and status 2."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from flows.errors import ServerLostError
from flows.judge_commands import judge, judges
from flows.store_commands import DEFAULT_STORE
from flows.store_commands import app as store_app
from flows.terminal import show_safely
from storage.errors import StoreError
from storage.store import Store
from tasks.stopping import TERMINATED, StoppedError, stop_on_sigterm

REGRESSED = 1
CHECK_FAILED = 1
USER_MISTAKE = 2
INTERRUPTED = 130
# A month, in seconds: a watch that looks less often is a mistake in the number.
LONGEST_PAUSE = 31 * 24 * 3600.0

app = App(
    name="cmrm",
    help="Measure what images do to a vision-language model's safety, and undo it.",
    suppress_keyboard_interrupt=False,
)
app.command(store_app)
app.command(judge)
app.command(judges)


@app.command
def run(
    spec: Path | None = None,
    /,
    *,
    store: Annotated[str | None, Parameter(env_var="CMRM_STORE")] = None,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
    limit: Annotated[int | None, Parameter(validator=validators.Number(gte=1))] = None,
) -> None:
    """Run a spec: embed, measure Δ, answer, judge, report. The same command again resumes.

    Parameters
    ----------
    spec
        A YAML file; without it the embedded model runs on its own data sets.
    store
        Where everything is kept: a folder or an fsspec URL. Without it the spec's own, else ./cmrm-store.
    server
        The API URL of a Prefect server, such as http://127.0.0.1:4200/api; without it PREFECT_API_URL or an
        embedded one.
    workers
        Who does the jobs that need a model: auto (a process for each GPU where there are several, else this one), a
        number of processes, ray:ADDRESS (ray:auto for a cluster on this machine), or deployment:FLOW/NAME.
    limit
        Take at most so many samples of each data set: a first look before a long run.
    """
    from flows.defaults import make_default_spec
    from flows.result_text import print_result
    from flows.run import run_spec
    from flows.spec import read_spec

    read = make_default_spec() if spec is None else read_spec(spec)
    if limit is not None:
        read = read.limit(limit)
    place = Store.open(store or read.store or DEFAULT_STORE).url
    result = run_spec(read, store=place, server=server, workers=workers)
    print_result(Console(), result)


def _refuse_unknown_option(_: Any, query: str | None) -> None:
    if query is not None and query != "-" and query.startswith("-") and not any(map(str.isspace, query)):
        raise ValueError(f"There is no option {query}; cmrm sql --help lists them.")


@app.command
def sql(
    query: Annotated[
        # A query may start with a comment, and - is standard input.
        str | None, Parameter(allow_leading_hyphen=True, validator=_refuse_unknown_option)
    ] = None,
    /,
    *,
    file: Annotated[Path | None, Parameter(alias="-f")] = None,
    store: Annotated[str, Parameter(env_var="CMRM_STORE")] = DEFAULT_STORE,
    run: str | None = None,
    format: Literal["table", "csv", "json", "parquet", "markdown"] | None = None,  # noqa: A002
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Ask the store in SQL (DuckDB, read-only). Without a query: its views, their columns, and the macros.

    Parameters
    ----------
    query
        The query, such as "SELECT condition, count(*) FROM responses GROUP BY ALL"; `-` reads it from standard
        input.
    file
        A file that holds the query.
    store
        The store to ask: a folder or an fsspec URL.
    run
        Show only what this run used; `latest` for the newest finished one.
    format
        How to write the rows: a table shows the first thousand, the others have all. Without it what the output's
        name says, else a table.
    output
        A file to write the rows to; one that is there is replaced.
    """
    from flows.query import ask

    ask(query, file=file, store=store, run=run, format=format, output=output)


@app.command
def compare(
    before: str,
    after: str,
    /,
    *,
    store: Annotated[str, Parameter(env_var="CMRM_STORE")] = DEFAULT_STORE,
    unsafe_rise: float | None = None,
    utility_loss: float | None = None,
    over_refusal: float | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Hold two finished runs against each other, sample by sample; status 1 if the later one regressed.

    Parameters
    ----------
    before
        The earlier run's id, or `latest`.
    after
        The later one's; the thresholds are those of its spec (regression:) but for those given here.
    store
        The store of both: a folder or an fsspec URL.
    unsafe_rise
        How much an unsafe rate may rise, as a fraction: 0.02 is 2 points.
    utility_loss
        How much utility may fall; without it utility is shown and not judged.
    over_refusal
        How much over-refusal may rise; without it over-refusal is shown and not judged.
    output
        A file for all of it: .json, .csv (the samples that changed sides) or .md; one that is there is replaced.
    """
    from flows.compare import compare as compare_and_print

    found = compare_and_print(
        before,
        after,
        store=Store.open(store),
        overrides={
            "unsafe_rise": unsafe_rise,
            "utility_loss": utility_loss,
            "over_refusal": over_refusal,
        },
        output=output,
    )
    if found.regressed:
        sys.exit(REGRESSED)
    if not found.judged:
        # Nothing was found, since nothing could be looked at: a gate must not open on that.
        sys.exit(USER_MISTAKE)


@app.command
def watch(
    spec: Path,
    /,
    *,
    store: Annotated[str | None, Parameter(env_var="CMRM_STORE")] = None,
    server: str | None = None,
    workers: Annotated[str, Parameter(env_var="CMRM_WORKERS")] = "auto",
    once: Annotated[bool, Parameter(negative="")] = False,
    every: Annotated[float, Parameter(validator=validators.Number(gte=1, lte=LONGEST_PAUSE))] = 3600.0,
) -> None:
    """Notice a model's new revision, run the spec on it, and say whether safety got worse than in the last run.

    Parameters
    ----------
    spec
        A YAML file.
    store
        Where the runs are: a folder or an fsspec URL. Without it the spec's own, else ./cmrm-store.
    server
        The API URL of a Prefect server, which gets the events; without it PREFECT_API_URL or an embedded one.
    workers
        Who does the jobs that need a model, as for `cmrm run`.
    once
        Look once and end: status 1 if safety got worse, 2 if it could not be said, else 0.
    every
        Seconds between two looks.
    """
    from flows.spec import read_spec
    from flows.watch_loop import watch_on, watch_once

    place = store or read_spec(spec).store or DEFAULT_STORE
    if not once:
        watch_on(spec, server=server, seconds=every, store=place, workers=workers)
    elif status := watch_once(spec, server=server, store=place, workers=workers):
        sys.exit(status)


@app.command
def doctor(
    model: str,
    /,
    *,
    revision: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    attn_implementation: str | None = None,
    format: Literal["table", "json"] = "table",  # noqa: A002
) -> None:
    """Check in a minute, on a real model, that reading and steering do what they say; status 1 if a check fails.

    Parameters
    ----------
    model
        A model folder, a hub id, `organism`, or a spec (.yaml), of which all models are checked as it loads them.
    revision
        The hub revision of a model given by its id; without it main. A spec says these four itself.
    dtype
        auto, float32, bfloat16 or float16.
    device
        auto, cpu, cuda, or one of several such as cuda:1.
    attn_implementation
        auto, sdpa, eager, or another that transformers has.
    format
        A table, or all findings as JSON.
    """
    from flows.doctor import diagnose

    given = {
        "revision": revision,
        "dtype": dtype,
        "device": device,
        "attn_implementation": attn_implementation,
    }
    options = {name: value for name, value in given.items() if value is not None}
    if not diagnose(model, options=options, format=format):
        sys.exit(CHECK_FAILED)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `cmrm`.

    Exits with 0, 1 for what `compare` or `store` found, 2 for a mistake by the user, 130 when interrupted and 143 when
    terminated.
    """
    stop_on_sigterm()
    try:
        app(arguments, exit_on_error=False, result_action="return_value")
    except CycloptsError:
        sys.exit(USER_MISTAKE)  # already explained
    except ServerLostError as error:
        _tell(error)
        # Prefect would try for minutes to send the rest to a server that is gone, and say so each time.
        os._exit(USER_MISTAKE)
    except (UserError, StoreError) as error:
        _tell(error)
        sys.exit(USER_MISTAKE)
    except KeyboardInterrupt:
        Console(stderr=True).print("cmrm: stopped. What is finished is kept; the same command again goes on.")
        sys.exit(INTERRUPTED)
    except StoppedError:
        Console(stderr=True).print(
            "cmrm: terminated. What is finished is kept; the same command again goes on."
        )
        sys.exit(TERMINATED)


def _tell(error: Exception) -> None:
    Console(stderr=True).print(Text(show_safely(f"cmrm: {error}")), soft_wrap=True)
