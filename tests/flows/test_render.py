"""The report shows names and reasons from outside as text, on one line, whatever is in them."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from cmrm.statistics import Rate
from flows.render import render_grid, render_markdown
from tasks.summary import Column, Row, Table

TABLE = Table(
    columns=(
        Column(kind="unsafe", judge="refusal", dataset="vlsafe"),
        Column(kind="unsafe", judge="refusal", dataset="jailbreak"),
        Column(kind="utility", judge="match"),
        Column(kind="over_refusal", judge="refusal"),
    ),
    rows=(
        Row(
            name="CMRM dataset α=1",
            condition="image",
            intervention="CMRM dataset",
            alpha=1.0,
            rates=(
                Rate(successes=600, n=1000),
                Rate(successes=3, n=3),
                Rate(successes=0, n=0),
                Rate(successes=0, n=9),
            ),
            parse_errors=2,
        ),
    ),
)


def test_the_terminal_table_fits_80_columns() -> None:
    console = Console(file=StringIO(), width=80)
    console.print(render_grid(TABLE))
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert all(len(line) <= 80 for line in lines)
    row = next(line for line in lines if line.startswith("CMRM dataset α=1"))
    assert "60.0 [56–63]" in row
    assert "not measured" in row


def test_hostile_names_and_reasons_stay_text() -> None:
    summary = {
        "model": "<script>alert(1)</script> | x\n# heading",
        "revision": "sha256:00",
        "headline": "fine",
        "table": TABLE.to_json(),
        "quarantined": [
            {"stage": "ingest", "dataset": "a", "reason": "![x](http://evil/) | <b>\n| y |", "rows": 2},
        ],
        "shifts": [],
        "separation": {},
    }
    report = render_markdown(summary, run_id="r", store="s", figure=False)
    assert "<script>" not in report
    assert "![x]" not in report
    assert "\n# heading" not in report
    assert "Quarantined rows: 2 (2 in ingest)" in report
    assert "Parse errors: 2" in report
    assert "states.png" not in report
