"""`cmrm compare`: compare two runs of a store, print and write the result, and judge whether the later regressed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console

from cmrm.errors import UserError
from cmrm.statistics.regression import Thresholds
from flows.server.client import quiet_prefect, reach_server, translate_server_errors
from flows.spec.errors import explain_mistakes
from flows.spec.sections import RegressionSpec
from storage.store import Store

if TYPE_CHECKING:
    from tasks.compare.result import RunComparison


def compare(
    names: Sequence[str], *, store: Store, overrides: Mapping[str, float | None], output: Path | None
) -> list[RunComparison]:
    """Compare each later run with the first, print the results, and write that of two runs to `output`.

    The thresholds are those of the later run's spec unless given in `overrides`. Raises `UserError` or `StoreError`
    for what the user can fix.
    """
    from flows.compare.files import check_output, write_comparison
    from flows.compare.text import print_comparison

    if output is not None:
        check_output(output)
        if len(names) > 2:
            raise UserError(
                f"-o {output}: it takes a comparison of two runs; give --html for a page of {len(names)}"
            )
    comparisons = compare_with_first(names, store=store, overrides=overrides)
    console = Console()
    for number, found in enumerate(comparisons):
        if number:
            console.print()
            console.rule()
        print_comparison(console, found)
        if output is not None:
            write_comparison(found, output)
    return comparisons


def compare_with_first(
    names: Sequence[str], *, store: Store, overrides: Mapping[str, float | None]
) -> list[RunComparison]:
    """Compare each later run with the first; raises as `compare` does."""
    quiet_prefect()
    from tasks.compare.finished_runs import find_finished

    # Resolve all before comparing, so that `latest` means one run.
    first, *later = [find_finished(store, name) for name in names]
    ids = [str(run["run_id"]) for run in later]
    if repeated := next((one for one in ids if ids.count(one) > 1), None):
        raise UserError(f"run {repeated} is named twice; name each run once")
    return [
        find_or_compare(
            store, str(first["run_id"]), str(run["run_id"]), thresholds=read_thresholds(run, overrides)
        )
        for run in later
    ]


def find_or_compare(store: Store, before: str, after: str, *, thresholds: Thresholds) -> RunComparison:
    """Return a stored comparison, or compare two runs; a Prefect server is started only if none is stored."""
    quiet_prefect()
    from tasks.compare.stage import plan_comparison

    planned = plan_comparison(store, before, after, thresholds=thresholds)
    if (found := planned.find()) is not None:
        return found
    with reach_server(None)(), translate_server_errors():
        return planned.make()


def read_thresholds(run: Mapping[str, Any], overrides: Mapping[str, float | None]) -> Thresholds:
    """Read the thresholds of a run's recorded spec, with defaults, and apply the overrides.

    Raises `UserError` for a value that is not a fraction.
    """
    try:
        section = RegressionSpec.model_validate(run["spec"].get("regression") or {})
    except ValidationError as error:
        lines = explain_mistakes(error, RegressionSpec)
        raise UserError("\n".join(f"run {run['run_id']}: spec.regression.{line}" for line in lines)) from None
    given = {name: value for name, value in overrides.items() if value is not None}
    return Thresholds(**{**section.model_dump(), **given})
