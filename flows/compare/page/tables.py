"""Tables of the page: rates and paired changes, categories, changed sides, Δ by block, and differing fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

from cmrm.statistics.paired_tests import Comparison
from cmrm.statistics.rates import Rate
from flows.compare.page.runs import PageRun
from flows.compare.words import MOVES, count_moves, find_worse, sort_categories
from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers, make_row_groups
from flows.report.number_format import NONE, NOT_MEASURED, plain, write_change, write_p, write_value
from flows.report.tables.categories import SMALL
from flows.report.tables.main import TITLES, excerpt_changes
from storage.maintenance.diff import Change as FieldChange
from storage.maintenance.diff import describe_values
from tasks.compare.category_changes import CategoryChange
from tasks.compare.changes import Change
from tasks.compare.result import RunComparison
from tasks.report.categories import FEW
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import Column

WORSE = "*"
# So that the columns of two runs fit beside each other.
LONGEST_VALUE = 36
CHANGES_NOTE = (
    "Rates in % and scores in their own unit, of the same samples in both runs, with 95 % intervals (Wilson for "
    "rates). Change in percentage points (Newcombe's interval, exact McNemar test) or the scores' own unit (bootstrap, "
    "sign flips); p corrected by Holm over all changes of the two runs. "
    f"{WORSE}: worse than allowed, and chance does not explain it."
)


def make_runs_table(runs: Sequence[PageRun]) -> ReportTable:
    """Make the table of the runs with their letters."""
    rows = tuple(
        (
            ReportCell(text=run.letter),
            ReportCell(text=run.run_id),
            ReportCell(text=f"{str(run.record.get('created_at'))[:16].replace('T', ' ')} UTC"),
            ReportCell(text=run.summary.title or "–"),
            ReportCell(text=", ".join(run.models)),
        )
        for run in runs
    )
    return ReportTable(
        name="runs",
        title="Runs",
        headings=tuple(
            Heading(title=title, numeric=False) for title in ("", "Run", "Begun", "Title", "Models")
        ),
        row_groups=(RowGroup(title="", rows=rows),),
        records=(),
        note=f"Every run is compared with {runs[0].letter}.",
    )


def make_changes_table(comparison: RunComparison, sides: tuple[str, str]) -> ReportTable | None:
    """Make the table of rates of both runs, and of their changes in pairs; None where there is no pair."""
    measured = [one for one in comparison.changes if one.change.n]
    if not measured:
        return None
    worse = set(find_worse(comparison))
    columns = list(dict.fromkeys(one.column for one in comparison.changes))
    rows = [
        (
            one.arm.model,
            (
                ReportCell(text=one.name),
                ReportCell(text=_title(one.column, columns)),
                *_write_sides(one.change),
                _write_change(one, worse=(one.arm, one.column) in worse),
                ReportCell(text=f"{one.change.n:,}"),
                write_p(one.change.p_adjusted),
            ),
        )
        for one in measured
    ]
    return ReportTable(
        name=f"changes-{sides[1]}",
        title=f"{sides[1]} against {sides[0]}",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("", "Measure")),
            *head_numbers(*sides, "Change", "Pairs", "p corrected"),
        ),
        row_groups=make_row_groups(rows),
        records=tuple(one.to_json() for one in measured),
        note=CHANGES_NOTE,
        excerpts=tuple(excerpt_changes(rows, [one.change for one in measured], _shorten(measured))),
    )


def make_categories_table(comparison: RunComparison, sides: tuple[str, str]) -> ReportTable | None:
    """Make the table of changes by category, those that became worse first; None without categories."""
    found = sort_categories(comparison.categories)
    if not found:
        return None
    several = len({one.change.arm.model for one in found}) > 1
    return ReportTable(
        name=f"categories-{sides[1]}",
        title=f"{sides[1]} against {sides[0]}, by category",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Category", "Data set", "Arm", "Measure")),
            *head_numbers(*sides, "Change", "Pairs", "p corrected"),
        ),
        row_groups=(RowGroup(title="", rows=tuple(_write_category(one, several=several) for one in found)),),
        records=tuple(one.to_json() for one in found),
        note=f"What became worse first, the surest change on top. p corrected by Holm over all rates of the table; "
        f"the verdict does not depend on them. {SMALL}: of fewer than {FEW} pairs.",
    )


def make_sides_table(comparison: RunComparison, sides: tuple[str, str]) -> ReportTable | None:
    """Make the table of how many samples changed sides, by arm and judge; None if none did."""
    counts = count_moves(comparison.flips)
    if not counts:
        return None
    moves = [move for move in MOVES if any(move in found for found in counts.values())]
    names = {one.arm: one.name for one in comparison.changes}
    rows = [
        (
            arm.model,
            (
                ReportCell(text=names[arm]),
                ReportCell(text=judge),
                *(ReportCell(text=f"{found[move]:,}") for move in moves),
            ),
        )
        for (arm, judge), found in counts.items()
    ]
    return ReportTable(
        name=f"sides-{sides[1]}",
        title=f"From {sides[0]} to {sides[1]}",
        headings=(
            *(Heading(title=title, numeric=False) for title in (" → ".join(sides), "Judge")),
            *head_numbers(*(" → ".join(move) for move in moves)),
        ),
        row_groups=make_row_groups(rows),
        records=(),
    )


def make_shifts_table(comparison: RunComparison, sides: tuple[str, str]) -> ReportTable | None:
    """Make the table of each Δ by block: cosine and lengths; None where none could be compared."""
    rows = [
        (
            f"{shift.model}: {shift.image}, {shift.method}",
            (
                ReportCell(text=str(block.block)),
                ReportCell(text=NOT_MEASURED)
                if block.cosine is None
                else ReportCell(text=f"{block.cosine:.3f}"),
                ReportCell(text=f"{block.before:.4g}"),
                ReportCell(text=f"{block.after:.4g}"),
                ReportCell(text=f"×{block.after / block.before:.2f}") if block.before else NONE,
            ),
        )
        for shift in comparison.shifts
        for block in shift.blocks
    ]
    if not rows:
        return None
    names = dict.fromkeys(name for name, _ in rows)
    return ReportTable(
        name=f"shifts-{sides[1]}",
        title=f"Δ of {sides[1]} against {sides[0]}",
        headings=head_numbers("Block", "Cosine", *(f"|Δ| of {side}" for side in sides), "Ratio"),
        row_groups=tuple(
            RowGroup(title=name, rows=tuple(row for own, row in rows if own == name)) for name in names
        ),
        records=tuple(
            {"model": shift.model, "image": shift.image, "method": shift.method, **asdict(block)}
            for shift in comparison.shifts
            for block in shift.blocks
        ),
    )


def make_fields_table(differences: Sequence[FieldChange], runs: Sequence[PageRun]) -> ReportTable | None:
    """Make the table of fields of specs, models and software that differ; None where none does."""
    if not differences:
        return None
    rows = tuple(
        (
            ReportCell(text=one.path),
            *(ReportCell(text=describe_values(values, longest=LONGEST_VALUE)) for values in one.values),
        )
        for one in differences
    )
    return ReportTable(
        name="fields",
        title="Specs, models and software",
        headings=tuple(
            Heading(title=title, numeric=False) for title in ("Field", *(run.letter for run in runs))
        ),
        row_groups=(RowGroup(title="", rows=rows),),
        records=(),
        note="cmrm store diff shows what the stages made, too.",
    )


def _write_category(one: CategoryChange, *, several: bool) -> tuple[ReportCell, ...]:
    change = one.change
    arm = f"{change.arm.model}: {change.name}" if several else change.name
    return (
        ReportCell(text=one.category),
        ReportCell(text=change.column.dataset),
        ReportCell(text=arm),
        ReportCell(text=TITLES[change.column.kind]),
        *_write_sides(change.change),
        write_change(change.change),
        ReportCell(text=f"{change.change.n:,}{SMALL if one.is_small else ''}"),
        write_p(change.change.p_adjusted),
    )


def _write_sides(change: Comparison) -> tuple[ReportCell, ReportCell]:
    before, after = (_write_side(change, value) for value in (change.before, change.after))
    return before, after


def _write_side(change: Comparison, value: float | None) -> ReportCell:
    """One run's rate with its interval, or its mean; the number of pairs has a column of its own."""
    if value is None:
        return ReportCell(text=NOT_MEASURED)
    if change.kind == "bootstrap":
        return ReportCell(text=plain(value))
    return replace(write_value(Rate(successes=round(value * change.n), n=change.n)), count=None)


def _write_change(one: Change, *, worse: bool) -> ReportCell:
    cell = write_change(one.change)
    return replace(cell, text=f"{WORSE}{cell.text}") if worse else cell


def _shorten(changes: Sequence[Change]) -> dict[str, str]:
    return shorten_models(list(dict.fromkeys(one.arm.model for one in changes)))


def _title(column: Column, columns: Sequence[Column]) -> str:
    judges: Mapping[str, None] = dict.fromkeys(one.judge for one in columns if one.kind == column.kind)
    judge = f"({column.judge})" if len(judges) > 1 else ""
    return " ".join(filter(None, (TITLES[column.kind], column.dataset, judge)))
