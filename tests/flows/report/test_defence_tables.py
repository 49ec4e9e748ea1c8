"""The tables of defences in every form: what they say, 80 columns in a terminal, and names from outside as text."""

from __future__ import annotations

import csv
import io
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from flows.report.sections import make_document
from flows.report.tables.defences import make_compared_table, make_defences_table
from flows.report.writers.exports import write_csv, write_latex
from flows.report.writers.markdown import write_markdown
from flows.report.writers.terminal_defences import render_defences
from tasks.report.defences import DefenceTable, make_defence_table
from tasks.report.table import make_table
from tests.made_up import EVIL_MODEL, SETTINGS, make_outcomes, make_summary

# As if the made-up run's second intervention were a prompt.
KINDS = {**SETTINGS, "CMRM sample": {"kind": "prompt"}}


def make(*, costs: Any = (), **changes: Any) -> DefenceTable:
    outcomes = make_outcomes(**{"samples": 24, **changes})
    passes = {"CMRM dataset": 1, "CMRM sample": 1}
    main = make_table(outcomes, settings=KINDS, quarantined={})
    table = make_defence_table(outcomes, main, settings=KINDS, passes=passes, tokens={}, costs=costs)
    assert table is not None
    return table


def write(table: DefenceTable | None) -> str:
    changes = {} if table is None else {"defences": table.to_json()}
    summary = make_summary(make_outcomes(samples=6), **changes)
    return write_markdown(make_document(summary, run_id="r1", store_name="s", keys=["a"]))


def show(table: DefenceTable) -> list[str]:
    console = Console(file=StringIO(), width=80)
    console.print(render_defences(table))
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_the_section_is_there_only_for_a_run_with_other_defences() -> None:
    assert "## Defences" not in write(None)
    report = write(make())
    section = report.partition("## Defences\n")[2].partition("\n## ")[0]
    assert "### Defences, in pairs" in section
    assert "|  | Kind | Unsafe vlsafe | Unsafe jailbreak |" in section
    assert "| CMRM sample α=1 | prompt |" in section


def test_a_row_of_pairs_has_both_changes_in_points_and_both_corrected_p() -> None:
    table = make()
    report_table = make_compared_table(table)
    assert report_table is not None
    (row,) = (row for row in table.rows if row.name == "CMRM sample α=1")
    change, other = row.cells[0].from_plain, row.cells[0].from_cmrm
    assert change is not None
    assert other is not None
    (shown,) = (
        [str(cell) for cell in cells]
        for cells in report_table.row_groups[0].rows
        if (cells[0].text, cells[1].text) == (row.name, "Unsafe vlsafe")
    )
    low, high = (f"{100 * one:+.1f}".replace("-", "−") for one in (change.low or 0.0, change.high or 0.0))
    assert shown[2] == f"{100 * (change.change or 0.0):+.1f} [{low}, {high}]".replace("-", "−")
    assert shown[3] == ("< 0.001" if (change.p_adjusted or 0) < 0.001 else f"{change.p_adjusted:.3f}")
    assert shown[5] == f"{other.p_adjusted:.3f}"
    records = [one for one in report_table.records if one["name"] == row.name and one["dataset"] == "vlsafe"]
    assert [one["against"] for one in records] == ["Image", "CMRM dataset α=0.5"]
    assert [one["p_holm"] for one in records] == [change.p_adjusted, other.p_adjusted]


def test_seconds_have_a_column_only_where_they_were_measured() -> None:
    cost = {
        "seconds": {"value": 1.0, "low": None, "high": None, "n": 1},
        "ratio": 1.254,
        "low": 1.1,
        "high": 1.4,
        "n": 3,
    }
    costs = [
        {
            "model": "llava-tiny@12",
            "dataset": "",
            "intervention": "CMRM sample",
            "alpha": 1.0,
            "cost": cost,
        }
    ]
    plain, timed = make_defences_table(make()), make_defences_table(make(costs=costs))
    assert plain is not None
    assert timed is not None
    titles = [heading.title for heading in timed.headings]
    assert set(titles) - {heading.title for heading in plain.headings} == {"Times plain"}
    shown = {row[0].text: str(row[titles.index("Times plain")]) for row in timed.row_groups[0].rows}
    assert shown["CMRM sample α=1"] == "1.25 [1.10, 1.40]"
    assert shown["Image"] == "–"
    rows = list(csv.DictReader(io.StringIO(write_csv(timed).decode())))
    assert {row["seconds_ratio"] for row in rows if row["name"] == "CMRM sample α=1"} == {"1.254"}


@pytest.mark.parametrize("judges", [("refusal", "match"), ("refusal", "guard", "match", "scorer")])
def test_the_terminals_table_fits_80_columns_and_marks_what_is_significant(judges: tuple[str, ...]) -> None:
    table = make(judges=judges, models=("moon@12", "[red]a\x1b[2J@1"), samples=60)
    lines = show(table)
    assert all(len(line) <= 80 for line in lines)
    assert "\x1b" not in "\n".join(lines)
    assert sum(line.startswith("CMRM sample") for line in lines) == 2 * 2
    (row,) = (row for row in table.rows if row.name == "CMRM sample α=1" and row.arm.model.startswith("moon"))
    shown = next(line for line in lines if line.startswith("CMRM sample α=1"))
    place = next(place for place, one in enumerate(table.columns) if one.kind == "unsafe")
    change = row.cells[place].from_plain
    assert change is not None
    assert change.p_adjusted is not None
    assert change.p_adjusted < 0.05
    assert f"{100 * (change.change or 0.0):.1f}*".replace("-", "−") in shown


def test_models_from_outside_are_text_in_every_file() -> None:
    table = make(models=(EVIL_MODEL, "sun@1"))
    for report_table in (make_defences_table(table), make_compared_table(table)):
        assert report_table is not None
        assert "$<$b$>$moon" in write_latex(report_table).decode()
    assert "<b>moon" not in write(table)
