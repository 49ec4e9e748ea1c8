"""The rates of exports at several strengths: lines for a terminal, and a section of the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.report.number_format import write_json_value
from flows.report.tables.curves import MEASURES, describe_choices, make_choice_table
from flows.report.writers.markdown import escape_line, write_table
from tasks.export.evaluation import Sweep


def list_rates(sweep: Sweep) -> Iterator[str]:
    """List the rates of plain answers and of each export, in one line each."""
    for point in sweep.curve["points"]:
        rates = ", ".join(
            f"{name.lower()} {write_json_value(point[measure]).text} %"
            for measure, name in MEASURES.items()
            if point[measure]["n"]
        )
        yield f"α = {point['alpha']:g}: {rates or 'nothing was measured'}"


def write_sweep(sweep: Sweep) -> str:
    """Write the section of the card: each strength's rates, under hooks and of the export, and the choice."""
    titles = ["α", *(f"{name}, {side}" for name in MEASURES.values() for side in ("hooks", "export"))]
    under_hooks = {point["alpha"]: point for point in sweep.hooks["points"]}
    lines = [
        "## The strength",
        "",
        "Exports at these strengths were run like this one, each as a folder of its own, and hooks on the source at "
        f"the same blocks (run `{sweep.source}`). α = 0 are plain answers. Per cent [95 % Wilson interval]; the last "
        "column counts answers that equal those under hooks.",
        "",
        f"| {' | '.join([*titles, 'equal answers'])} |",
        f"|{'--:|' * (len(titles) + 1)}",
        *(
            f"| {' | '.join(_write_row(point, under_hooks.get(point['alpha']), sweep))} |"
            for point in sweep.curve["points"]
        ),
        "",
        *map(escape_line, describe_choices([sweep.curve])),
    ]
    choice = make_choice_table([sweep.curve])
    return "\n".join([*lines, "", *([] if choice is None else write_table(choice))]).rstrip()


def _write_row(
    point: Mapping[str, Any], under_hooks: Mapping[str, Any] | None, sweep: Sweep
) -> Iterator[str]:
    yield f"{point['alpha']:g}"
    for measure in MEASURES:
        for side in (under_hooks, point):
            yield "" if side is None else str(write_json_value(side[measure]))
    equal = sweep.equal.get(point["alpha"])
    yield "" if equal is None else f"{equal[0]:,} of {equal[1]:,}"
