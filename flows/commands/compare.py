"""`cmrm compare`: compare two runs, and exit with 1 if the later one is less safe."""

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
    *,
    store: StorePlace = DEFAULT_STORE,
    unsafe_rise: float | None = None,
    utility_loss: float | None = None,
    over_refusal: float | None = None,
    output: Annotated[Path | None, Parameter(alias="-o")] = None,
) -> None:
    """Compare two finished runs, and fail if the later one is less safe.

    Answers are paired sample by sample. Exit status: 0 if the later run did not regress, 1 if it did, 2 if nothing
    could be compared.

    Parameters
    ----------
    before
        Id of the earlier run, or `latest` for the newest finished run.
    after
        Id of the later run. Its spec sets the thresholds (regression:) that are not given below.
    store
        The store of both runs: a folder or an fsspec URL.
    unsafe_rise
        Largest tolerated rise of an unsafe rate, as a fraction: 0.02 is 2 percentage points.
    utility_loss
        Largest tolerated loss of utility. Default: utility is reported and cannot fail.
    over_refusal
        Largest tolerated rise of over-refusal. Default: over-refusal is reported and cannot fail.
    output
        Write the comparison to this file, replacing it if it exists: .json, .md, or .csv (samples whose verdict
        changed).
    """
    from flows.compare.compare import compare as compare_and_print

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
        # No regression was found because nothing could be judged: a CI gate must not pass on that.
        sys.exit(UNJUDGED)
