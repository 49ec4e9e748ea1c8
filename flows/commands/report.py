"""`cmrm report`: write the report of a finished run again, or a page of several runs."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from cmrm.errors import UserError
from flows.commands.store_place import DEFAULT_STORE, StorePlace
from storage.store import Store


def report(
    run: str = "latest",
    /,
    *,
    with_: Annotated[
        tuple[str, ...] | None,
        Parameter(name="--with", negative="", consume_multiple=True, show_default=False),
    ] = None,
    store: StorePlace = DEFAULT_STORE,
) -> None:
    """Write the report of a finished run again, or a page of several runs.

    From the store alone: nothing is answered or judged again. The page of several runs is that of
    `cmrm compare --html`: each is compared with RUN, and its verdict is printed; the exit status does not depend on it.

    Parameters
    ----------
    run
        Id of a finished run, or `latest`.
    with_
        Ids of further runs of the same store, for a page of all of them.
    store
        The store of the runs: a folder or an fsspec URL.
    """
    if with_ is not None and not with_:
        raise UserError("--with: name one run or more, or leave it out to write the report of RUN alone")
    opened = Store.open(store)
    if with_:
        from flows.compare.compare import compare_with_first
        from flows.compare.page.runs import check_runs
        from flows.compare.page.write import write_and_tell

        check_runs((run, *with_))
        comparisons = compare_with_first((run, *with_), store=opened, overrides={})
        for found in comparisons:
            _print(f"{found.after.run_id}: {found.verdict}")
        write_and_tell(opened, comparisons)
        return
    from flows.run import rewrite_report

    _print(f"Report: {rewrite_report(opened, run)}")


def _print(line: str) -> None:
    from flows.terminal.safe_text import show_safely

    Console().print(Text(show_safely(line)), soft_wrap=True)
