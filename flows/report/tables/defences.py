"""The tables of defences: rates and cost of each, and how each compares with plain answers and with CMRM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from cmrm.statistics.paired_tests import Comparison
from flows.report.document import Heading, ReportCell, ReportTable, head_numbers, make_row_groups
from flows.report.number_format import NONE, plain, write_change, write_p, write_value
from flows.report.tables.main import TITLES, flatten_change, flatten_value
from tasks.report.defences import DefenceCell, DefenceRow, DefenceTable
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import NO_SCORE, Column

# Below this corrected p, a change of the terminal's table is marked.
LEVEL = 0.05
DEFENCES_NOTE = (
    "By the first judge of each kind; rates in % with 95 % Wilson intervals and the number of judged answers. Tokens: "
    "the mean of an answer over all its generations, and how many times that of plain answers; those of a prompt count "
    "its image. Passes: sequences that are decoded for one answer. On the front: with their images, no "
    "other has as few unsafe answers and as few harmless questions refused, and fewer of one."
)
SECONDS_NOTE = "Seconds over plain, on the same batches, with 95 % bootstrap intervals."
COMPARED_NOTE = (
    "The same samples, under the same condition. Change in percentage points (Newcombe's interval, exact McNemar "
    "test), of scores in their own unit (bootstrap interval, sign-flip test); p corrected by Holm over all comparisons "
    "of this table, with plain answers and with CMRM together."
)


def make_defences_table(table: DefenceTable | None) -> ReportTable | None:
    """Make the table of what each defence reaches and costs; None without defences of other kinds than CMRM."""
    if table is None:
        return None
    timed = any(row.cost for row in table.rows)
    plain_rows = {(row.arm.model, row.name): row for row in table.rows if not row.kind}
    rows = [
        (
            row.arm.model,
            (
                ReportCell(text=row.name),
                ReportCell(text=row.kind or "plain"),
                *(_write_cell(cell) for cell in row.cells),
                ReportCell(text="yes" if row.on_front else ""),
                *(
                    _write_tokens(row, plain_rows.get((row.arm.model, row.plain)), field)
                    for field in ("prompt_tokens", "tokens")
                ),
                *((_write_seconds(row),) if timed else ()),
                NONE if row.passes is None else ReportCell(text=str(row.passes)),
            ),
        )
        for row in table.rows
    ]
    return ReportTable(
        name="defences",
        title="Defences",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("", "Kind")),
            *(Heading(title=title_defence_column(column)) for column in table.columns),
            *head_numbers(
                "On the front", "Prompt tokens", "Tokens", *(("Times plain",) if timed else ()), "Passes"
            ),
        ),
        row_groups=make_row_groups(rows, shorten_models(table.models())),
        records=tuple(
            _record(row, column, cell)
            for row in table.rows
            for column, cell in zip(table.columns, row.cells, strict=True)
        ),
        note=f"{DEFENCES_NOTE} {SECONDS_NOTE}" if timed else DEFENCES_NOTE,
    )


def make_compared_table(table: DefenceTable | None) -> ReportTable | None:
    """Make the table of each defence's changes from plain answers and from CMRM; None if there are none."""
    compared = [
        (row, column, cell)
        for row in (table.rows if table else ())
        for column, cell in zip(table.columns if table else (), row.cells, strict=True)
        if cell.from_plain or cell.from_cmrm
    ]
    if table is None or not compared:
        return None
    rows = [
        (
            row.arm.model,
            (
                ReportCell(text=row.name),
                ReportCell(text=title_defence_column(column)),
                *_write_comparison(cell.from_plain),
                *_write_comparison(cell.from_cmrm),
            ),
        )
        for row, column, cell in compared
    ]
    return ReportTable(
        name="defences-compared",
        title="Defences, in pairs",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("", "Measure")),
            *head_numbers("From plain", "p corrected", "From CMRM", "p corrected"),
        ),
        row_groups=make_row_groups(rows, shorten_models(table.models())),
        records=tuple(
            {
                **_name(row, column),
                "against": against,
                **flatten_change(change),
            }
            for row, column, cell in compared
            for against, change in ((row.plain, cell.from_plain), (row.cmrm, cell.from_cmrm))
            if change is not None
        ),
        note=COMPARED_NOTE,
    )


def title_defence_column(column: Column, join: str = " ") -> str:
    """Title of a column of the table of defences, which is by one judge a kind."""
    return TITLES[column.kind] + (f"{join}{column.dataset}" if column.dataset else "")


def is_significant(change: Comparison) -> bool:
    """Whether a change's corrected p is below 0.05."""
    return change.p_adjusted is not None and change.p_adjusted < LEVEL


def _write_cell(cell: DefenceCell) -> ReportCell:
    return ReportCell(text=NO_SCORE) if cell.unmeasured else write_value(cell.value)


def _write_tokens(
    row: DefenceRow, plain_row: DefenceRow | None, field: Literal["prompt_tokens", "tokens"]
) -> ReportCell:
    """Write a count of tokens, and its ratio to that of plain answers under the same condition."""
    count, usual = getattr(row, field), None if plain_row is None else getattr(plain_row, field)
    if count is None:
        return NONE
    return ReportCell(text=f"{count:.1f}" + (f" ({count / usual:.2f} ×)" if usual else ""))


def _write_seconds(row: DefenceRow) -> ReportCell:
    if row.cost is None or row.cost.ratio is None:
        return NONE
    return ReportCell(text=plain(row.cost.ratio), low=plain(row.cost.low), high=plain(row.cost.high))


def _write_comparison(change: Comparison | None) -> tuple[ReportCell, ReportCell]:
    return (NONE, NONE) if change is None else (write_change(change), write_p(change.p_adjusted))


def _record(row: DefenceRow, column: Column, cell: DefenceCell) -> Mapping[str, Any]:
    return {
        **_name(row, column),
        **flatten_value(cell.value),
        "unmeasured": cell.unmeasured or None,
        "on_front": row.on_front,
        "tokens": row.tokens,
        "prompt_tokens": row.prompt_tokens,
        **{f"seconds_{name}": row.cost and getattr(row.cost, name) for name in ("ratio", "low", "high")},
        "passes": row.passes,
    }


def _name(row: DefenceRow, column: Column) -> dict[str, Any]:
    return {
        **row.arm._asdict(),
        "name": row.name,
        "kind": row.kind,
        "measure": column.kind,
        "dataset": column.dataset,
        "judge": column.judge,
    }
