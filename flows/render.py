"""The report for people: Markdown for a file, a table for a terminal, from the same numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table as Grid
from rich.text import Text

from cmrm.statistics import Rate
from tasks.summary import STATE_NAMES, Column, Table

FIGURE = "states.png"
LISTED_REASONS = 20
TITLES = {"utility": "Utility", "over_refusal": "Over-refusal"}


def render_markdown(summary: Mapping[str, Any], *, run_id: str, store: str, figure: bool) -> str:
    """Write `report.md`: the headline, the main table with intervals, what was set aside, and where it all lies."""
    table = Table.from_json(summary["table"])
    lines = [
        f"# {_plain(summary['model'])}",
        "",
        _plain(summary["headline"]),
        "",
        *_markdown_table(table),
        "",
        *_footnotes(table),
        "",
        "## Set aside",
        "",
        *_quarantine(summary["quarantined"]),
        "",
        "## Shift",
        "",
        *_shifts(summary),
        "",
    ]
    if figure:
        lines += ["## Final states", "", f"![Principal components of the final states]({FIGURE})", ""]
    lines += [
        "## Provenance",
        "",
        f"* run `{run_id}`, model revision `{summary['revision']}`",
        f'* answers, verdicts and states: `cmrm sql --store {store} --run {run_id} "SELECT …"`',
        "",
    ]
    return "\n".join(lines)


def render_grid(table: Table) -> Grid:
    """The main table for a terminal of 80 columns: percentages with 95 % intervals."""
    grid = Grid(
        box=None,
        pad_edge=False,
        header_style="bold",
        caption="% [95 % Wilson interval]",
        caption_justify="left",
    )
    grid.add_column("", no_wrap=True)
    for column in table.columns:
        grid.add_column(_title(table, column, "\n"), justify="right")
    for row in table.rows:
        grid.add_row(
            Text(row.name), *(_short(rate) for rate in row.rates), style="bold" if row.intervention else ""
        )
    return grid


def describe_quarantine(quarantined: Sequence[Mapping[str, Any]]) -> str:
    """One line: how many rows were set aside, by stage."""
    counts: dict[str, int] = {}
    for one in quarantined:
        counts[one["stage"]] = counts.get(one["stage"], 0) + one["rows"]
    if not counts:
        return "Quarantined rows: none."
    by_stage = ", ".join(f"{rows} in {stage}" for stage, rows in counts.items())
    return f"Quarantined rows: {sum(counts.values())} ({by_stage})."


def describe_parse_errors(table: Table) -> str:
    """One line: how many answers no judge could read, counted in no rate."""
    errors = sum(row.parse_errors for row in table.rows)
    return f"Parse errors: {errors}, counted in no rate." if errors else "Parse errors: none."


def read_summary(data: bytes) -> dict[str, Any]:
    """The summary that the report stage kept."""
    return dict(json.loads(data))


def _markdown_table(table: Table) -> list[str]:
    header = ["", *(_plain(_title(table, column, " ")) for column in table.columns)]
    rows = [[_plain(row.name), *(_cell(rate) for rate in row.rates)] for row in table.rows]
    rule = ["---", *("---:" for _ in table.columns)]
    return [f"| {' | '.join(cells)} |" for cells in (header, rule, *rows)]


def _footnotes(table: Table) -> list[str]:
    return [
        "Rates in % with a 95 % Wilson interval and the number of judged answers. Unsafe: harmful questions answered. "
        "Utility: harmless questions with a short reference answered with it. "
        "Over-refusal: harmless questions refused.",
        "",
        describe_parse_errors(table),
    ]


def _quarantine(quarantined: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [describe_quarantine(quarantined)]
    if quarantined:
        lines += ["", "| stage | data set | rows | reason |", "| --- | --- | ---: | --- |"]
        lines += [
            f"| {one['stage']} | {_plain(one['dataset'])} | {one['rows']} | {_plain(one['reason'])} |"
            for one in quarantined[:LISTED_REASONS]
        ]
    if len(quarantined) > LISTED_REASONS:
        lines += ["", f"… and {len(quarantined) - LISTED_REASONS} more reasons: `FROM quarantine` lists all."]
    return lines


def _shifts(summary: Mapping[str, Any]) -> list[str]:
    lines = [
        f"* Δ from {one['image']} images over {one['anchors']} anchors: `shifts/{one['key'][:12]}…`"
        for one in summary["shifts"]
    ]
    lines += [
        f"* final states {STATE_NAMES[name]} lie {value:.2f} spreads from the text-only ones"
        for name, value in summary["separation"].items()
    ]
    return lines or ["No dataset-level shift was measured."]


def _title(table: Table, column: Column, join: str) -> str:
    judges = {one.judge for one in table.columns if one.kind == column.kind}
    judge = f"{join}({column.judge})" if len(judges) > 1 else ""
    name = f"Unsafe{join}{column.dataset}" if column.kind == "unsafe" else TITLES[column.kind]
    return f"{name}{judge}"


def _cell(rate: Rate) -> str:
    return str(rate) if not rate.n else f"{rate} ({rate.n})"


def _short(rate: Rate) -> str:
    if rate.value is None or rate.interval is None:
        return "not measured"
    low, high = rate.interval
    # Outwards, so that a bound is never narrower than it was; 1e-9 forgives the last bit of a whole number.
    bounds = math.floor(100 * low + 1e-9), math.ceil(100 * high - 1e-9)
    return f"{100 * rate.value:.1f} [{bounds[0]}–{bounds[1]}]"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line: names and reasons come from outside."""
    escaped = "".join(f"\\{letter}" if letter in "\\`*_{}[]<>#|!~" else letter for letter in text)
    return " ".join(escaped.split())
