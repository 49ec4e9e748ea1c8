"""The comparisons of two runs that a store keeps: which, their verdict, what changed, and whose verdict flipped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.errors import UserError
from flows.report.document import Heading, ReportCell, ReportTable, head_numbers, make_row_groups
from flows.report.number_format import write_before_after, write_change, write_p
from flows.report.tables.main import TITLES
from flows.view.runs import describe_time
from storage.sql.comparisons import COMPARE, comparison_rows
from storage.store import Store
from tasks.compare.changes import Change, Flip
from tasks.report.table import name_arm

# Samples of the page; SQL has all.
MOST_FLIPS = 200


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
    changes: ReportTable | None
    flips: ReportTable | None
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
    record = json.loads(row["record"])
    try:
        changes = [Change.from_json(one) for one in record["changes"]]
        flips = [Flip.from_json(one) for one in record["flips"]]
        notes = tuple(map(str, record["notes"]))
    except (KeyError, TypeError) as error:
        raise UserError(f"this release cannot read the comparison ({error}): make it again") from error
    return ComparisonPage(
        listed=_list_comparison(row, runs),
        notes=notes,
        changes=_make_changes(changes),
        flips=_make_flips(flips),
        left=max(0, len(flips) - MOST_FLIPS),
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


def _make_changes(changes: list[Change]) -> ReportTable | None:
    rows = [
        (
            one.arm.model,
            (
                ReportCell(text=one.name),
                ReportCell(
                    text=f"{TITLES.get(one.column.kind, one.column.kind)} {one.column.dataset}".strip()
                ),
                ReportCell(text=one.column.judge),
                write_before_after(one.change),
                write_change(one.change),
                write_p(one.change.p_adjusted),
            ),
        )
        for one in changes
    ]
    return _make_table(
        "changes",
        "Changes, in pairs",
        ("", "Measure", "Judge"),
        ("Before → after (n)", "Change", "p corrected"),
        rows,
    )


def _make_flips(flips: list[Flip]) -> ReportTable | None:
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
    return _make_table(
        "flips", "Samples that changed sides", ("Data set", "Sample", "Arm", "Judge", "Verdict"), (), rows
    )


def _make_table(
    name: str,
    title: str,
    texts: tuple[str, ...],
    numbers: tuple[str, ...],
    rows: Sequence[tuple[str, tuple[ReportCell, ...]]],
) -> ReportTable | None:
    if not rows:
        return None
    return ReportTable(
        name=name,
        title=title,
        headings=(*(Heading(title=text, numeric=False) for text in texts), *head_numbers(*numbers)),
        row_groups=make_row_groups(rows),
        records=(),
    )
