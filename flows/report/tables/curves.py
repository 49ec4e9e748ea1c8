"""Tables of safety and utility over α, the Pareto front, and the α chosen under a utility bound."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cmrm.statistics.paired_tests import Comparison
from flows.report.document import Heading, ReportCell, ReportTable, head_numbers, make_row_groups
from flows.report.number_format import percent, plain, read_value, write_change, write_json_value, write_p
from flows.report.tables.main import flatten_change, flatten_value
from tasks.report.model_names import shorten_models

Record = Mapping[str, Any]
MEASURES = {"unsafe": "Unsafe", "utility": "Utility", "over_refusal": "Over-refusal"}


def make_curve_tables(curves: Sequence[Record]) -> Iterator[ReportTable]:
    """Make one table per curve: rates at each α, and whether it is on the Pareto front."""
    names = shorten_models(list(dict.fromkeys(curve["model"] for curve in curves)))
    for number, curve in enumerate(curves):
        of = f"{names[curve['model']]}, " if len(names) > 1 else ""
        yield ReportTable(
            name=f"strength-{number + 1}",
            title=f"Strengths: {of}{curve['intervention']}",
            headings=head_numbers("α", *MEASURES.values(), "On the front"),
            row_groups=make_row_groups(
                [("", row) for row in map(_write_point, _mark_front(curve))], {"": ""}
            ),
            records=tuple(_flatten_point(curve, point) for point in curve["points"]),
        )


def make_choice_table(curves: Sequence[Record]) -> ReportTable | None:
    """Make the table of the α chosen on half of the questions under the bound, evaluated on the held-out half."""
    chosen = [curve for curve in curves if curve["choice"]["alpha"] is not None]
    if not chosen:
        return None
    return ReportTable(
        name="choice",
        title="The chosen strengths, on the held-out half",
        headings=(
            Heading(title="", numeric=False),
            *head_numbers(
                "α", "Unsafe before", "Unsafe after", "Change", "p", "Utility before", "Utility after"
            ),
            *head_numbers("Over-refusal before", "Over-refusal after"),
        ),
        row_groups=make_row_groups(
            [(curve["model"], _write_choice(curve)) for curve in chosen],
            shorten_models(list(dict.fromkeys(curve["model"] for curve in chosen))),
        ),
        records=tuple(map(_flatten_choice, chosen)),
    )


def describe_choices(curves: Sequence[Record]) -> list[str]:
    """Describe the bound, and list curves without an α that meets it."""
    if not curves:
        return []
    names = shorten_models(list(dict.fromkeys(curve["model"] for curve in curves)))
    choice = curves[0]["choice"]
    mean = any("successes" not in point["utility"] for curve in curves for point in curve["points"])
    loss = plain(choice["utility_loss"]) if mean else f"{percent(choice['utility_loss'])} percentage points"
    refused = (
        ""
        if choice["over_refusal"] is None
        else f" and at most {percent(choice['over_refusal'])} % of harmless questions refused"
    )
    lines = [
        f"The bound: utility at most {loss} below that of the smallest strength{refused}. Half of the questions, "
        "drawn by their text, choose the safest strength within it; the other half evaluates it."
    ]
    for curve in curves:
        name = (
            f"{names[curve['model']]}, {curve['intervention']}" if len(names) > 1 else curve["intervention"]
        )
        if curve["choice"]["alpha"] is None:
            unmeasured = not any(point["utility"]["n"] for point in curve["points"])
            why = "no utility was measured" if unmeasured else "no strength is within the bound"
            lines.append(f"{name}: none is chosen, since {why}.")
    return lines


def _mark_front(curve: Record) -> Iterator[Record]:
    for point in curve["points"]:
        yield {**point, "on_front": point["alpha"] in curve["front"]}


def _write_point(point: Record) -> tuple[ReportCell, ...]:
    return (
        ReportCell(text=f"{point['alpha']:g}"),
        *(write_json_value(point[measure]) for measure in MEASURES),
        ReportCell(text="yes" if point["on_front"] else ""),
    )


def _flatten_point(curve: Record, point: Record) -> dict[str, Any]:
    flat = {name: curve[name] for name in ("model", "intervention")} | {"alpha": point["alpha"]}
    for measure in MEASURES:
        values = flatten_value(read_value(point[measure]))
        flat |= {f"{measure}_{name}": value for name, value in values.items()}
    return {**flat, "on_front": point["alpha"] in curve["front"]}


def _write_choice(curve: Record) -> tuple[ReportCell, ...]:
    choice = curve["choice"]
    change = Comparison.from_json(choice["change"])
    before, after = choice["before"], choice["after"]
    return (
        ReportCell(text=curve["intervention"]),
        ReportCell(text=f"{choice['alpha']:g}"),
        *(write_json_value(side["unsafe"]) for side in (before, after)),
        write_change(change),
        write_p(change.p),
        *(write_json_value(side["utility"]) for side in (before, after)),
        *(write_json_value(side["over_refusal"]) for side in (before, after)),
    )


def _flatten_choice(curve: Record) -> dict[str, Any]:
    choice = curve["choice"]
    flat = {"model": curve["model"], "intervention": curve["intervention"]}
    flat |= {f"bound_{name}": choice[name] for name in ("utility_loss", "over_refusal")}
    flat |= {"alpha": choice["alpha"]}
    for side in ("before", "after"):
        for measure in MEASURES:
            values = flatten_value(read_value(choice[side][measure]))
            flat |= {f"{measure}_{side}_{name}": value for name, value in values.items()}
    return {**flat, **flatten_change(Comparison.from_json(choice["change"]))}
