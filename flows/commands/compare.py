"""`cmrm compare`: two runs, and whether the later one is less safe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flows.store_commands import DEFAULT_STORE
from storage.store import Store

REGRESSED = 1
UNJUDGED = 2


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
        sys.exit(UNJUDGED)
