"""`cmrm compare`: compare runs with the first, and exit with 1 if a later one is less safe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.commands.store_place import DEFAULT_STORE, StorePlace
from storage.store import Store

REGRESSED = 1
UNJUDGED = 2


def compare(
    before: str,
    after: str,
    /,
    *others: str,
    store: StorePlace = DEFAULT_STORE,
    unsafe_rise: float | None = None,
    utility_loss: float | None = None,
    over_refusal: float | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
    html: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Compare two finished runs, and fail if the later one is less safe.

    Answers are paired sample by sample. Of more than two runs each is compared with the first. Exit status: 0 if no
    later run regressed, 1 if one did, 2 if of one nothing could be compared.

    Parameters
    ----------
    before
        Id of the earlier run, or `latest` for the newest finished run.
    after
        Id of the later run. Its spec sets the thresholds (regression:) that are not given below.
    others
        Ids of further later runs.
    store
        The store of all runs: a folder or an fsspec URL.
    unsafe_rise
        Largest tolerated rise of an unsafe rate, as a fraction: 0.02 is 2 percentage points.
    utility_loss
        Largest tolerated loss of utility. Default: utility is reported and cannot fail.
    over_refusal
        Largest tolerated rise of over-refusal. Default: over-refusal is reported and cannot fail.
    output
        Write the comparison to this file, replacing it if it exists: .json, .md, or .csv (samples whose verdict
        changed).
    html
        Write a page of the runs to the store: figures, tables, and the answers of all runs side by side, samples whose
        verdict changed first.
    """
    from flows.compare.compare import compare as compare_and_print

    names = (before, after, *others)
    if html:
        from flows.compare.page.runs import check_runs

        check_runs(names)
    overrides = {
        "unsafe_rise": unsafe_rise,
        "utility_loss": utility_loss,
        "over_refusal": over_refusal,
    }
    opened = Store.open(store)
    found = compare_and_print(
        names,
        store=opened,
        overrides=overrides,
        output=output,
    )
    if html:
        from flows.compare.page.write import write_and_tell

        write_and_tell(opened, found, overrides=overrides)
    if any(one.regressed for one in found):
        sys.exit(REGRESSED)
    if not all(one.judged for one in found):
        # No regression was found because nothing could be judged: a CI gate must not pass on that.
        sys.exit(UNJUDGED)
