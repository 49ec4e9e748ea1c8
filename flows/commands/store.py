"""`cmrm store`: list a store, verify checksums, garbage-collect unused files, and diff two runs."""

from __future__ import annotations

import sys
from datetime import timedelta
from typing import Annotated

from cyclopts import App, Parameter, validators
from rich.console import Console

from cmrm.errors import UserError
from flows.commands.store_place import DEFAULT_STORE, StorePlace

DIFFERENT = 1
# A century; a larger number is a typing error.
MOST_DAYS = 36_500

app = App(name="store", help="List, verify and clean up a store, or compare two of its runs.")


@app.command
def ls(run: str | None = None, /, *, store: StorePlace = DEFAULT_STORE) -> None:
    """List the runs of a store and the output of each stage.

    Parameters
    ----------
    run
        List the manifests that this run used instead; `latest` is the newest finished run.
    store
        The store: a folder or an fsspec URL.
    """
    from flows.commands.store_tables import print_run, print_store
    from flows.report.file_names import REPORT_FILE
    from storage.maintenance.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    inventory = take_inventory(opened, report_file=REPORT_FILE)
    if run is None:
        print_store(Console(), inventory)
    else:
        print_run(Console(), inventory, opened.find_run(run))


@app.command
def verify(*, store: StorePlace = DEFAULT_STORE) -> None:
    """Verify the size and digest of every file.

    Damaged files count as missing: running their spec again makes them again. Exit status: 1 if a file is damaged.

    Parameters
    ----------
    store
        The store: a folder or an fsspec URL.
    """
    from flows.commands.store_tables import print_verified
    from flows.commands.verifying import verify_with_bar
    from flows.report.file_names import REPORT_FILE
    from storage.maintenance.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    inventory = take_inventory(opened, report_file=REPORT_FILE)
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
    """List the files that no run uses; with --delete, remove them.

    To free what a run uses, first remove the run with `cmrm store forget RUN`.

    Parameters
    ----------
    store
        The store: a folder or an fsspec URL.
    older_than
        Keep files younger than this many days: runs in progress, or yet to be resumed, may need them.
    delete
        Remove the listed files.
    """
    from flows.commands.store_tables import print_garbage, print_removed
    from flows.report.file_names import REPORT_FILE
    from storage.maintenance.gc import find_garbage, tidy
    from storage.maintenance.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    days = timedelta(days=older_than)
    garbage = find_garbage(opened, take_inventory(opened, report_file=REPORT_FILE), older_than=days)
    print_garbage(Console(), garbage)
    if delete:
        print_removed(Console(), [*tidy(opened, garbage, older_than=days, report_file=REPORT_FILE)])
    elif garbage:
        Console().print("Nothing was removed. Give --delete to remove them.")


@app.command
def forget(run: str, /, *, store: StorePlace = DEFAULT_STORE) -> None:
    """Remove a run's record and report, but not the output of its stages.

    For a run that is no longer wanted, or that was killed on another machine. `cmrm store gc` then lists the files that
    no other run uses.

    Parameters
    ----------
    run
        Run id.
    store
        The store: a folder or an fsspec URL.
    """
    from storage.liveness.heartbeat import FIELD, STALE, is_going_on
    from storage.liveness.processes import is_of_this_boot
    from storage.store import Store

    opened = Store.open(store)
    record = next((one for one in opened.runs() if one["run_id"] == run), {})
    process = record.get("process") or {}
    if is_of_this_boot(process) and is_going_on(opened, record):
        raise UserError(
            f"run {run} is still running on this machine, as process {process['pid']}: stop it first."
        )
    if FIELD in record and is_going_on(opened, record):
        raise UserError(
            f"run {run} is still running as process {process.get('pid')} on {process.get('host')}: stop it there first."
            f" If it was killed, wait until it has sent no heartbeat for {STALE.total_seconds() / 60:.0f} minutes."
        )
    removed = opened.forget_run(run)
    Console().print(f"Run {run} is forgotten: {len(removed)} files removed.", highlight=False)


@app.command
def diff(first: str, second: str, /, *, store: StorePlace = DEFAULT_STORE) -> None:
    """Show how two runs differ: in their specs, and in the output of each stage.

    Exit status: 1 if they differ. `cmrm compare` compares their verdicts.

    Parameters
    ----------
    first
        Run id, or `latest` for the newest finished run.
    second
        Id of the other run.
    store
        The store: a folder or an fsspec URL.
    """
    from flows.commands.store_tables import print_difference
    from storage.maintenance.diff import compare_runs
    from storage.maintenance.inventory import take_inventory
    from storage.store import Store

    opened = Store.open(store)
    runs = [opened.find_run(name) for name in (first, second)]
    difference = compare_runs(take_inventory(opened), *runs)
    print_difference(Console(), difference, [str(run["run_id"]) for run in runs])
    if not difference.same:
        sys.exit(DIFFERENT)
