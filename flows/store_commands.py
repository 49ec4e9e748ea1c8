"""`cmrm store`: what a store holds, whether it is whole, what is unused in it, and in what two runs differ."""

from __future__ import annotations

import socket
import sys
from datetime import timedelta
from typing import Annotated

from cyclopts import App, Parameter, validators
from rich.console import Console

from cmrm.errors import UserError

DEFAULT_STORE = "./cmrm-store"
DIFFERENT = 1
# A century: what is older than that is a mistake in the number.
MOST_DAYS = 36_500

StorePlace = Annotated[str, Parameter(env_var="CMRM_STORE")]

app = App(name="store", help="Look after a store: list it, verify it, tidy it, compare two runs of it.")


@app.command
def ls(run: str | None = None, /, *, store: StorePlace = DEFAULT_STORE) -> None:
    """List the runs of a store and what each stage has made.

    Parameters
    ----------
    run
        List what this run used instead, manifest by manifest; `latest` for the newest finished one.
    store
        The store: a folder or an fsspec URL.
    """
    from flows.store_tables import print_run, print_store
    from storage.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    inventory = take_inventory(opened)
    if run is None:
        print_store(Console(), inventory)
    else:
        print_run(Console(), inventory, opened.find_run(run))


@app.command
def verify(*, store: StorePlace = DEFAULT_STORE) -> None:
    """Read every file and hold it against the record that names it; status 1 if one is damaged.

    What is damaged counts as not there: the spec that made it, run again, makes it again.

    Parameters
    ----------
    store
        The store: a folder or an fsspec URL.
    """
    from flows.store_tables import print_verified
    from flows.verifying import verify_with_bar
    from storage.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    inventory = take_inventory(opened)
    checked = verify_with_bar(opened, inventory)
    print_verified(Console(), inventory, checked)
    if any(one.fault for one in checked):
        sys.exit(DIFFERENT)


@app.command
def gc(
    *,
    store: StorePlace = DEFAULT_STORE,
    older_than: Annotated[float, Parameter(validator=validators.Number(gte=0, lte=MOST_DAYS))] = 7.0,
    delete: bool = False,
) -> None:
    """List the files that no run refers to; with --delete, remove them.

    `cmrm store forget RUN` removes a run: what it alone used is then unused.

    Parameters
    ----------
    store
        The store: a folder or an fsspec URL.
    older_than
        Leave alone what is younger than so many days: runs that are going on, or that will be resumed, need it.
    delete
        Remove them; without it nothing is changed.
    """
    from flows.store_tables import print_garbage, print_removed
    from storage.garbage import find_garbage, tidy
    from storage.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    days = timedelta(days=older_than)
    garbage = find_garbage(opened, take_inventory(opened), older_than=days)
    print_garbage(Console(), garbage)
    if delete:
        print_removed(Console(), list(tidy(opened, garbage, older_than=days)))
    elif garbage:
        Console().print("Nothing was removed. Give --delete to remove them.")


@app.command
def forget(run: str, /, *, store: StorePlace = DEFAULT_STORE) -> None:
    """Remove a run's record and report: one that is not wanted any more, or that was killed on another machine.

    What its stages made stays, and is reused; `cmrm store gc` lists what no other run uses.

    Parameters
    ----------
    run
        The run's id.
    store
        The store: a folder or an fsspec URL.
    """
    from storage.garbage import is_going_on
    from storage.store import Store

    opened = Store.open(store)
    record = next((one for one in opened.runs() if one["run_id"] == run), {})
    process = record.get("process") or {}
    if is_going_on(record) and process.get("host") == socket.gethostname():
        raise UserError(f"run {run} is going on here, as process {process['pid']}: end it first.")
    removed = opened.forget_run(run)
    Console().print(f"Run {run} is forgotten: {len(removed)} files removed.", highlight=False)


@app.command
def diff(first: str, second: str, /, *, store: StorePlace = DEFAULT_STORE) -> None:
    """Say in what two runs differ: spec, and what each stage used; status 1 if they do.

    Parameters
    ----------
    first
        A run's id, or `latest`.
    second
        Another's.
    store
        The store: a folder or an fsspec URL.
    """
    from flows.store_tables import print_difference
    from storage.difference import compare_runs
    from storage.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    runs = [opened.find_run(name) for name in (first, second)]
    difference = compare_runs(take_inventory(opened), *runs)
    print_difference(Console(), difference, [str(run["run_id"]) for run in runs])
    if not difference.same:
        sys.exit(DIFFERENT)
