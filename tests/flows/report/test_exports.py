"""Tables as files: CSV with all digits and no formulas, LaTeX that sets hostile names as text."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given

from flows.report.document import Heading, ReportCell, ReportTable, RowGroup
from flows.report.tables.main import make_changes_table, make_main_table
from flows.report.writers.exports import escape, write_csv, write_latex
from tasks.report.table import Table, make_table
from tests.made_up import EVIL, SETTINGS, make_outcomes
from tests.texts import TEXTS


@pytest.fixture(scope="module")
def table() -> Table:
    outcomes = make_outcomes(samples=8, models=("moon@12", EVIL), judges=("refusal", "match", "scorer"))
    return make_table(outcomes, settings=SETTINGS, quarantined={})


def test_csv_holds_the_raw_numbers_of_every_cell(table: Table) -> None:
    rows = list(csv.DictReader(io.StringIO(write_csv(make_main_table(table)).decode())))
    assert len(rows) == len(table.rows) * len(table.columns)
    cells = [cell for row in table.rows for cell in row.cells]
    for row, cell in zip(rows, cells, strict=True):
        assert int(row["n"]) == cell.value.n
        assert float(row["value"]) == cell.value.value
        if cell.change is not None:
            assert float(row["p_holm"]) == cell.change.p_adjusted
            assert float(row["change_low"]) == cell.change.low
    assert {row["model"] for row in rows} == {"moon@12", EVIL}
    assert {row["successes"] for row in rows if row["measure"] == "score"} == {""}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_name_in_a_csv_is_a_formula(text: str) -> None:
    report_table = ReportTable(
        name="x", title="x", headings=(), row_groups=(), records=({"name": text, "change": -0.5},)
    )
    (row,) = csv.DictReader(io.StringIO(write_csv(report_table).decode()))
    assert row == {"name": f"'{text}", "change": "-0.5"}


def test_latex_is_a_booktabs_table_with_a_block_a_model(table: Table) -> None:
    text = write_latex(make_main_table(table)).decode()
    assert text.count(r"\midrule") == 2
    assert r"\multicolumn{8}{@{}l}{\textit{moon}} \\" in text
    assert r"CMRM dataset $\alpha$=1 & 28.6$_{[8.2, 64.1]}$ &" in text
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")].splitlines()
    rows = [line for line in body if "&" in line and "multicolumn" not in line]
    assert len(rows) == len(table.rows)
    assert {line.replace(r"\&", "").count("&") for line in rows} == {7}
    assert all(line.endswith(r" \\") for line in rows)


def test_latex_has_signs_and_small_p_values_as_mathematics(table: Table) -> None:
    report_table = make_changes_table(table)
    assert report_table is not None
    text = write_latex(report_table).decode()
    assert r"$\to$" in text
    assert "−" not in text


def test_latex_sets_hostile_names_as_text() -> None:
    report_table = ReportTable(
        name="x",
        title=r"50 % of a_b \input{/etc/passwd}",
        headings=(Heading(title="a & b", numeric=False),),
        row_groups=(RowGroup(title="$x^2$", rows=((ReportCell(text=f"[1] {EVIL}\n# ~"),),)),),
        records=(),
    )
    text = write_latex(report_table).decode()
    assert r"\caption{50 \% of a\_b \textbackslash{}input\{/etc/passwd\}.}" in text
    assert r"a \& b \\" in text
    assert r"\textit{\$x\textasciicircum{}2\$}" in text
    assert r"{[}1{]} $<$/script$>$" in text
    assert r"\# \textasciitilde{} \\" in text


@given(TEXTS)
def test_escaped_latex_holds_no_bare_special(text: str) -> None:
    for known in (
        "\\textbackslash{}",
        "\\textasciicircum{}",
        "\\textasciitilde{}",
        "\\textbar{}",
        "\\ldots{}",
    ):
        text = text.replace(known, "")
    escaped = escape(text)
    assert escaped.isprintable()
    for letter in "#%&_":
        assert escaped.count(letter) == escaped.count(f"\\{letter}") == text.count(letter)
    assert escaped.count("{") == escaped.count("}") or "{" in text or "}" in text
