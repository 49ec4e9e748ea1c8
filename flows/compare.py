"""`cmrm compare`: two runs of a store held against each other, printed and written, and whether the later regressed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console

from cmrm.errors import UserError
from cmrm.regression import Thresholds
from flows.mistakes import explain_mistake
from flows.sections import RegressionSpec
from flows.server.client import quiet_prefect, reach_server, told_of_a_lost_server
from storage.store import Store

if TYPE_CHECKING:
    from tasks.run_comparison import RunComparison


def compare(
    before: str, after: str, *, store: Store, overrides: Mapping[str, float | None], output: Path | None
) -> RunComparison:
    """Compare two runs, print what came of it, and write all of it to `output`.

    The thresholds are those of the later run's spec, but for the `overrides` that are given. Raises `UserError` or
    `StoreError` for what the user can mend.
    """
    quiet_prefect()
    from flows.comparison_files import check_output, write_comparison
    from flows.comparison_text import print_comparison
    from tasks.finished_runs import find_finished

    if output is not None:
        check_output(output)
    # One look for both, so that `latest` is one run.
    runs = [find_finished(store, name) for name in (before, after)]
    thresholds = read_thresholds(runs[1], overrides)
    found = find_or_compare(store, *(str(run["run_id"]) for run in runs), thresholds=thresholds)
    print_comparison(Console(), found)
    if output is not None:
        write_comparison(found, output)
    return found


def find_or_compare(store: Store, before: str, after: str, *, thresholds: Thresholds) -> RunComparison:
    """What `compare_runs` gives, with a Prefect server started only for what the store does not have yet."""
    quiet_prefect()
    from tasks.compare import plan_comparison

    planned = plan_comparison(store, before, after, thresholds=thresholds)
    if (found := planned.find()) is not None:
        return found
    with reach_server(None)(), told_of_a_lost_server():
        return planned.make()


def read_thresholds(run: Mapping[str, Any], overrides: Mapping[str, float | None]) -> Thresholds:
    """The thresholds of a run's recorded spec, the usual ones where it names none, but for the overrides given.

    Raises `UserError` for what is no fraction.
    """
    try:
        section = RegressionSpec.model_validate(run["spec"].get("regression") or {})
    except ValidationError as error:
        lines = [explain_mistake(problem, RegressionSpec) for problem in error.errors()]
        raise UserError("\n".join(f"run {run['run_id']}: spec.regression.{line}" for line in lines)) from None
    given = {name: value for name, value in overrides.items() if value is not None}
    return Thresholds(**{**section.model_dump(), **given})
