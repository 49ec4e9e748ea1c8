"""The runs of a page: their letters, records, reports and summaries, and in what they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from cmrm.errors import UserError
from flows.plan.image_folders import find_run_images
from storage.maintenance.diff import Change, find_changes
from storage.records.manifest import Manifest
from storage.store import Store
from tasks.compare.finished_runs import find_finished, find_report
from tasks.compare.matching import match_arms
from tasks.compare.result import RunComparison
from tasks.core.software import gather_software
from tasks.core.stage_name import StageName
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import Arm
from tasks.report.summary import Summary, read_summary
from tasks.report.table import sort_arms

# More would be too wide to read.
MOST_RUNS = 6


@dataclass(frozen=True, kw_only=True)
class PageRun:
    """A run of the page, `letter` its name there."""

    letter: str
    record: Mapping[str, Any]
    report: Manifest
    summary: Summary

    @property
    def run_id(self) -> str:
        return str(self.record["run_id"])

    @property
    def models(self) -> list[str]:
        """Its models, each with the first digits of its revision."""
        return [str(model["name"]) for model in self.record["models"]]

    @property
    def interventions(self) -> list[str]:
        """Its interventions, in the order of its spec."""
        return list(
            dict.fromkeys(row.arm.intervention for row in self.summary.table.rows if row.arm.intervention)
        )


def check_runs(names: Sequence[str]) -> None:
    """Raise `UserError` for more runs than fit into a page."""
    if len(names) > MOST_RUNS:
        raise UserError(f"{len(names)} runs do not fit into one page: name {MOST_RUNS} at most")


def read_page_runs(store: Store, names: Sequence[str]) -> list[PageRun]:
    """Read finished runs; raises `UserError` or `StoreError` for one that is not finished or whole, or for too many."""
    check_runs(names)
    records = [find_finished(store, name) for name in names]
    reports = [find_report(store, record, stages=()) for record in records]
    return [
        PageRun(letter=letter, record=record, report=report, summary=read_summary(store, report))
        for letter, record, report in zip(ascii_uppercase, records, reports, strict=False)
    ]


def list_interventions(runs: Sequence[PageRun]) -> list[str]:
    """List the interventions of all runs, in the order of their specs."""
    return list(dict.fromkeys(name for run in runs for name in run.interventions))


def name_commonly(comparison: RunComparison, first: PageRun, run: PageRun) -> RunComparison:
    """Call models in all that a comparison says of arms and Δ by the first run's labels.

    A comparison of two models calls them by the later one's label, so that those of several runs would differ.
    """
    before, _ = match_arms([first.report, run.report])
    short = shorten_models(list(before))
    # What has its whole name for a label, such as an arm of another system, is called so by all.
    names = {label: short[name] for name, label in before.items() if label != name}

    def rename(arm: Arm) -> Arm:
        return arm._replace(model=names.get(arm.model, arm.model))

    return replace(
        comparison,
        changes=tuple(replace(one, arm=rename(one.arm)) for one in comparison.changes),
        categories=tuple(
            replace(one, change=replace(one.change, arm=rename(one.change.arm)))
            for one in comparison.categories
        ),
        unpaired=tuple(replace(one, arm=rename(one.arm)) for one in comparison.unpaired),
        shifts=tuple(replace(one, model=names.get(one.model, one.model)) for one in comparison.shifts),
        flips=tuple(replace(one, arm=rename(one.arm)) for one in comparison.flips),
    )


def order_arms(comparison: RunComparison, interventions: Sequence[str]) -> RunComparison:
    """Put all that a comparison says of arms in the order of the spec: what is stored has interventions by name."""
    arms = sort_arms(
        dict.fromkeys([*(one.arm for one in comparison.changes), *(one.arm for one in comparison.unpaired)]),
        interventions,
    )
    places = {arm: place for place, arm in enumerate(arms)}
    return replace(
        comparison,
        changes=tuple(sorted(comparison.changes, key=lambda one: places[one.arm])),
        unpaired=tuple(sorted(comparison.unpaired, key=lambda one: places[one.arm])),
        flips=tuple(sorted(comparison.flips, key=lambda one: places[one.arm])),
    )


def find_images(store: Store, runs: Sequence[PageRun]) -> tuple[list[dict[str, Path | None]], list[str]]:
    """Find the folders of the data sets' images in each run.

    Also says of which runs there are none since this release cannot read their spec, which a page can do without.
    """
    found = []
    lacking = []
    for run in runs:
        try:
            found.append(find_run_images(store, run.record, run.record["spec"]["datasets"]))
        except UserError as error:
            lacking.append(f"Images of {run.letter} are not shown: {error}")
    return found, lacking


def find_run_differences(store: Store, runs: Sequence[PageRun]) -> list[Change]:
    """Find the fields of specs, models and software that are not the same in all runs.

    Software is that of the answers.
    """
    return [
        *find_changes([[{"spec": run.record["spec"]}] for run in runs]),
        *find_changes([[{"models": run.record["models"]}] for run in runs]),
        *find_changes([[{"software": _gather(store, run)}] for run in runs]),
    ]


def _gather(store: Store, run: PageRun) -> Mapping[str, Sequence[str]]:
    keys = run.report.content["used"].get(StageName.GENERATE, ())
    found = (store.look_up(StageName.GENERATE, key) for key in keys)
    return gather_software(made for made in found if made is not None)
