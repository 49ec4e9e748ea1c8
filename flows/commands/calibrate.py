"""`cmrm calibrate`: draw answers for people to label, and hold a run's judges against the labels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from cmrm.errors import UserError
from flows.commands.store_place import DEFAULT_STORE, StorePlace
from storage.store import Store

# Nobody labels more, and a page with their images would not open.
MOST_ANSWERS = 10_000
MOST_SEED = 999_999_999


def calibrate(
    run: str,
    /,
    *,
    labels: Annotated[list[Path] | None, Parameter(negative="")] = None,
    out: Annotated[Path | None, Parameter(alias="-o")] = None,
    size: Annotated[int | None, Parameter(validator=validators.Number(gte=1, lte=MOST_ANSWERS))] = None,
    width: Annotated[float, Parameter(validator=validators.Number(gt=0, lt=1))] = 0.1,
    seed: Annotated[int, Parameter(validator=validators.Number(gte=0, lte=MOST_SEED))] = 0,
    store: StorePlace = DEFAULT_STORE,
) -> None:
    """Hold the judges of a finished run against people's labels.

    With --size and --out, write a sheet of answers to label, arms hidden: sheet.html for a browser, sheet.csv for a
    spreadsheet. With --labels, measure each judge's sensitivity and specificity and correct the unsafe rates for
    them. With neither, say how many labels it takes.

    Parameters
    ----------
    run
        Run id, or `latest` for the newest finished run.
    labels
        CSV file of labels: as the page exports it, or the sheet with its column label filled in. Repeatable.
    out
        Folder of the written files. Default with --labels: beside the run's report.
    size
        Number of answers on the sheet.
    width
        Width of a 95 % interval to plan for, as a fraction: 0.1 is 10 percentage points.
    seed
        Seed of the draw; another seed gives another sheet.
    store
        The store of the run: a folder or an fsspec URL.
    """
    from flows.calibrate.calibrate import make_sheet, plan_sheet, read_calibration

    opened = Store.open(store)
    if labels:
        if size is not None:
            raise UserError("--labels reads a sheet and --size makes one; give one of the two")
        read_calibration(run, store=opened, labels=labels, out=out)
    elif out is not None:
        if size is None:
            raise UserError(
                f"--out {out}: a sheet needs --size, its number of answers; without --out it is told"
            )
        where = "" if store == DEFAULT_STORE else f" --store {shlex.quote(store)}"
        make_sheet(run, store=opened, size=size, seed=seed, width=width, out=out, where=where)
    else:
        plan_sheet(run, store=opened, size=size, seed=seed, width=width)
