"""The terminal's table fits 80 columns whatever is in it, and says what it leaves out."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from cmrm.statistics.rates import Mean
from flows.report.tables.main import make_main_table
from flows.report.writers.terminal import describe_parse_errors, describe_quarantine, render_grid
from tasks.report.judge_costs import JudgeTotals
from tasks.report.summary import QuarantineCount
from tasks.report.table import Cell, Table, make_table
from tests.made_up import SETTINGS, make_outcomes


def make(**changes: Any) -> Table:
    return make_table(make_outcomes(samples=8, **changes), settings=SETTINGS, quarantined={})


def show(table: Table) -> list[str]:
    console = Console(file=StringIO(), width=80)
    console.print(render_grid(table))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_each_row_says_the_rate_and_its_interval_rounded_outwards() -> None:
    lines = show(make())
    assert lines[1].split() == ["vlsafe", "jailbreak", "Utility", "Over-refusal"]
    (row,) = [line for line in lines if line.startswith("CMRM sample α=0.5")]
    assert "62.5 [30–87]" in row
    assert lines[-1].strip() == "% [95 % Wilson interval]"


@pytest.mark.parametrize(
    "judges", [("refusal", "match"), ("refusal", "guard", "match", "scorer")], ids=["few", "many"]
)
@pytest.mark.parametrize("name", ["llava", "a model's name that is longer than anything has a right to be"])
def test_the_table_fits_80_columns_and_keeps_one_of_each_kind_that_fits(
    judges: tuple[str, ...], name: str
) -> None:
    lines = show(make(models=(f"{name}@12", "other@12"), judges=judges))
    assert all(len(line) <= 80 for line in lines)
    assert {"Unsafe", "Over-refusal", "Utility"} <= set(" ".join(lines[:3]).split())
    assert any("report.md has all" in line for line in lines) == ("guard" in judges or name != "llava")


def test_several_models_have_a_block_of_rows_each_under_their_short_names() -> None:
    lines = [line.strip() for line in show(make(models=("moon@12", "sun@12")))]
    assert lines.index("moon") < lines.index("sun")
    assert sum(line.startswith("Query") for line in lines) == 2
    assert "llava" not in " ".join(show(make(models=("llava@12",))))


def test_models_that_differ_by_revision_alone_keep_it() -> None:
    lines = [line.strip() for line in show(make(models=("moon@12", "moon@13")))]
    assert {"moon@12", "moon@13"} <= set(lines)


def test_long_tables_are_cut_with_a_note() -> None:
    lines = show(make(strengths=[step / 20 for step in range(20)]))
    assert "40 of 45 rows; report.md has all." in [line.strip() for line in lines]


def test_names_are_neither_markup_nor_commands_to_the_terminal() -> None:
    lines = "\n".join(show(make(models=("[red]a\x1b[2J@1", "b@2"))))
    assert "[red]a\\x1b[2J" in lines
    assert "\x1b" not in lines


def test_where_no_score_is_possible_tables_say_so_and_why() -> None:
    table = make(judges=("refusal", "scorer"))
    (place,) = (place for place, one in enumerate(table.columns) if one.kind == "score")
    reason = "no score possible: the judge gave the reference answers 0 points on average"
    first, *rest = table.rows
    empty = Cell(value=Mean(value=None, low=None, high=None, n=0), unmeasured=reason)
    cells = (*first.cells[:place], empty, *first.cells[place + 1 :])
    table = replace(table, rows=(replace(first, cells=cells), *rest))
    lines = show(table)
    assert sum("no score possible" in line for line in lines) == 1
    assert "No score possible: the judge gave the reference" in " ".join(" ".join(lines).split())
    report_table = make_main_table(table)
    assert report_table.row_groups[0].rows[0][1 + place].text == "no score possible"
    assert report_table.note.endswith(
        "No score possible: the judge gave the reference answers 0 points on average."
    )
    assert [(one["value"], one["unmeasured"]) for one in report_table.records if one["unmeasured"]] == [
        (None, reason)
    ]


def test_a_table_without_rows_is_still_a_table() -> None:
    assert show(Table(columns=(), rows=()))


def make_totals(name: str, parse_errors: int) -> JudgeTotals:
    return JudgeTotals(
        name=name,
        kind=name,
        model=None,
        revision=None,
        verdicts=1,
        parse_errors=parse_errors,
        not_applicable=0,
        prompt_tokens=None,
        completion_tokens=None,
        dollars=None,
    )


def test_what_is_in_no_rate_is_said_in_a_line() -> None:
    guard, match, strict = (
        make_totals(name, parse_errors)
        for name, parse_errors in (("guard", 1027), ("match", 0), ("strict", 3))
    )
    assert describe_parse_errors([guard]) == "Parse errors: 1,027, counted in no rate."
    several = [match, guard, strict]
    said = "Parse errors: 1,030 (1,027 by guard, 3 by strict), counted in no rate."
    assert describe_parse_errors(several) == said
    assert describe_parse_errors([match]) == describe_parse_errors([]) == "Parse errors: none."
    rows = [
        QuarantineCount(stage=stage, dataset="d", reason=str(number), rows=number)
        for stage, number in (("ingest", 2), ("embed", 1), ("ingest", 3))
    ]
    assert describe_quarantine(rows) == "Quarantined rows: 6 (5 in ingest, 1 in embed)."
    assert describe_quarantine([]) == "Quarantined rows: none."
