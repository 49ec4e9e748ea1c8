"""The comparisons of two runs that a store keeps: which, their verdict, what changed, and whose verdict flipped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError
from flows.compare.page.tables import (
    make_categories_table,
    make_changes_table,
    make_shifts_table,
    make_sides_table,
)
from flows.compare.words import put_worst_first
from flows.report.document import Heading, ReportCell, ReportTable, make_row_groups
from flows.view.runs import describe_time
from storage.sql.comparisons import COMPARE, comparison_rows
from storage.store import Store
from tasks.compare.changes import Flip
from tasks.compare.result import ComparedRun, RunComparison
from tasks.report.table import name_arm

# Samples of the page; SQL has all.
MOST_FLIPS = 200
SIDES = ("before", "after")


@dataclass(frozen=True, kw_only=True)
class ListedComparison:
    """One comparison: its key, the ids of its runs ('' for one that the store no longer has), and its verdict."""

    key: str
    made: str
    before: str
    after: str
    regressed: bool
    verdict: str


@dataclass(frozen=True, kw_only=True)
class ComparisonPage:
    """One comparison with its notes and tables; `left` counts the flipped samples that are left out."""

    listed: ListedComparison
    notes: tuple[str, ...]
    tables: tuple[ReportTable, ...]
    left: int


def list_comparisons(store: Store) -> list[ListedComparison]:
    """List the comparisons of a store, the newest first; raises `StoreError`."""
    found = [_list_comparison(row, runs) for row, runs in _read_rows(store)]
    return sorted(found, key=lambda one: (one.made, one.key), reverse=True)


def read_comparison(store: Store, key: str) -> ComparisonPage:
    """Read one comparison by its key; raises `UserError` if there is none, or none that this release reads."""
    found = next((one for one in _read_rows(store) if one[0]["key"] == key), None)
    if found is None:
        raise UserError("the store has no such comparison: make one with cmrm compare")
    row, runs = found
    listed = _list_comparison(row, runs)
    before, after = (
        ComparedRun(run_id=run_id, created_at="", models=()) for run_id in (listed.before, listed.after)
    )
    try:
        comparison = RunComparison.from_json(json.loads(row["record"]), before=before, after=after)
        tables = [
            make_table(comparison, SIDES)
            for make_table in (make_changes_table, make_categories_table, make_sides_table, make_shifts_table)
        ]
        flips = _make_flips(put_worst_first(comparison))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"this release cannot read the comparison ({error!r}): make it again") from error
    return ComparisonPage(
        listed=listed,
        notes=tuple(map(str, comparison.notes)),
        tables=tuple(one for one in (*tables, flips) if one is not None),
        left=max(0, len(comparison.flips) - MOST_FLIPS),
    )


def _read_rows(store: Store) -> Iterator[tuple[Mapping[str, Any], Mapping[str, str]]]:
    """Read the comparisons, with the first run of each report's key."""
    runs: dict[str, str] = {}
    for run in store.runs():
        for key in run.get("keys") or ():
            runs.setdefault(str(key), str(run["run_id"]))
    for manifest in store.manifests(COMPARE):
        for row in comparison_rows(store, manifest):
            yield row, runs


def _list_comparison(row: Mapping[str, Any], runs: Mapping[str, str]) -> ListedComparison:
    return ListedComparison(
        key=str(row["key"]),
        made=describe_time(row["created_at"]),
        before=runs.get(row["before"], ""),
        after=runs.get(row["after"], ""),
        regressed=bool(row["regressed"]),
        verdict=str(row["verdict"]),
    )


def _make_flips(flips: Sequence[Flip]) -> ReportTable | None:
    if not flips:
        return None
    titles = ("Data set", "Sample", "Arm", "Judge", "Verdict")
    rows = [
        (
            one.arm.model,
            tuple(
                ReportCell(text=text)
                for text in (
                    one.dataset,
                    one.sample_id,
                    name_arm(one.arm),
                    one.judge,
                    f"{one.before} → {one.after}",
                )
            ),
        )
        for one in flips[:MOST_FLIPS]
    ]
    return ReportTable(
        name="flips",
        title="Samples that changed sides",
        headings=tuple(Heading(title=title, numeric=False) for title in titles),
        row_groups=make_row_groups(rows),
        records=(),
    )
