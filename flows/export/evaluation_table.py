"""The rates of an evaluated export as a table for a terminal of 80 columns."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from cmrm.statistics.rates import Rate
from flows.report.document import ReportCell
from flows.report.number_format import NONE, write_change, write_value
from flows.terminal.safe_text import show_safely
from flows.terminal.table import TableColumn, make_table
from tasks.export.evaluation import Evaluation

NAMES = {"unsafe": "unsafe", "utility": "utility", "over_refusal": "over-refusal"}


def tabulate(evaluation: Evaluation) -> Table:
    """Make the table: one row for each rate and judge."""
    caption = Text("% [95 % Wilson interval]; change from hooks in percentage points, paired by question")
    table = make_table(
        [
            TableColumn(title="", width=22),
            TableColumn(title="plain", justify="right", width=5),
            TableColumn(title="hooks", justify="right", width=5),
            TableColumn(title="export", justify="right", width=19),
            TableColumn(title="change", justify="right", width=17),
        ],
        caption=caption,
    )
    for one in evaluation.rates:
        name = " ".join(filter(None, (NAMES[one.kind], one.dataset, f"({one.judge})")))
        table.add_row(
            Text(show_safely(name)),
            _write(one.plain).text,
            _write(one.hooks).text,
            str(_write(one.exported)),
            str(write_change(one.change) if one.change.n else NONE),
        )
    return table


def _write(rate: Rate) -> ReportCell:
    return write_value(rate) if rate.n else NONE
