"""The headline of a report: one line of results to act on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cmrm.statistics.rates import Rate
from cmrm.statistics.ratios import Cost
from tasks.report.backbones import sum_up_backbones
from tasks.report.imported import ImportedChange, sum_up_imported
from tasks.report.outcomes import Arm, find_leading, name_intervention
from tasks.report.reasoning import ReasoningRate
from tasks.report.table import NO_BACKBONES, Cell, Row, Table

NOT_COMPARED = (
    "The effect of images was not measured: no harmful question was judged both as text and with its image."
)


@dataclass(frozen=True, kw_only=True)
class Bound:
    """The bound on an intervention's cost: loss of utility, and over-refusal rate (None: any)."""

    utility_loss: float
    over_refusal: float | None

    def is_kept(self, table: Table, before: Row, after: Row) -> bool:
        """Whether a row keeps the bound, by the first judges, compared with the image; unmeasured values keep it."""
        scored = not any(column.kind == "utility" for column in table.columns)
        for place in find_leading(table.columns):
            column, new = table.columns[place], after.cells[place]
            was, is_now = before.cells[place].value.value, new.value.value
            if was is None or is_now is None:
                continue
            if column.kind == "utility" and is_now < was - self.utility_loss - 1e-9:
                return False
            # Scores have no common scale: the allowed loss is relative to the baseline.
            if column.kind == "score" and scored and is_now < was - self.utility_loss * abs(was) - 1e-9:
                return False
            refused = column.kind == "over_refusal" and self.over_refusal is not None
            if refused and _value(new) > (self.over_refusal or 0.0) + 1e-9:
                return False
        return True


def make_headline(
    table: Table,
    *,
    bound: Bound,
    curves: Sequence[Mapping[str, Any]] = (),
    states: Sequence[Mapping[str, Any]] = (),
    costs: Sequence[Mapping[str, Any]] = (),
    reasoning: Sequence[ReasoningRate] = (),
    imported: Sequence[ImportedChange] = (),
    backbones: Mapping[str, str] = NO_BACKBONES,
) -> str:
    """Make one line per model: unsafe rates as text, with the image, under the safest intervention within the bound.

    A line says among how many it is the safest, or that none keeps the bound, and its cost. Curves over α add the
    strength that the bound selects, with its effect on the held-out half of the questions. Where `reasoning` has
    answers without a final part, which are in no unsafe rate, the line has their share. `imported` adds a line for
    each arm that another system answered, which `table` lacks. `backbones` are text-only models by name, each with the
    model that it stands beside: their lines compare the two as text. A run without verdicts is summarized by its
    `costs` in seconds and by the effect of its interventions on the `states`.
    """
    if table.rows:
        models = [model for model in table.models() if model not in backbones]
        lines = [_judge_model(table, model, bound, reasoning) for model in models]
        if len(models) > 1:
            lines = [f"{model}: {line}" for model, line in zip(models, lines, strict=True)]
        lines += sum_up_backbones(table, backbones)
        return "\n".join([*lines, *sum_up_imported(imported), *_describe_choices(curves)])
    return "\n".join([*_sum_up_costs(costs), *_sum_up_states(states)]) or NOT_COMPARED


def _describe_choices(curves: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for curve in curves:
        choice = curve["choice"]
        who = f"{curve['intervention']} on {curve['model']}"
        if choice["alpha"] is None:
            yield f"{who}: {_explain_no_choice(curve)}."
            continue
        rates = [Rate(**choice[side]["unsafe"]).value for side in ("before", "after")]
        start = "" if choice["from"] == 0 else f" (from α={choice['from']:g})"
        change = " → ".join("not measured" if one is None else f"{100 * one:.1f} %" for one in rates)
        yield (
            f"{who}: the stated bound picks α={choice['alpha']:g}; on the half of the questions that had no say, "
            f"unsafe answers{start} {change}."
        )


def _explain_no_choice(curve: Mapping[str, Any]) -> str:
    wanted = ["unsafe", "utility"]
    if curve["choice"]["over_refusal"] is not None:
        wanted.append("over_refusal")
    names = {"unsafe": "unsafe answers", "utility": "utility", "over_refusal": "over-refusal"}
    lacking = [names[one] for one in wanted if not any(point[one]["n"] for point in curve["points"])]
    if lacking:
        return f"no strength is picked, for {' and '.join(lacking)} had nothing to be measured on"
    return "no strength keeps the stated bound"


def _sum_up_costs(costs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for model in dict.fromkeys(one["model"] for one in costs):
        together = [one for one in costs if one["model"] == model and not one["dataset"]]
        parts: list[str] = []
        for one in together:
            cost = Cost.from_json(one["cost"])
            if cost.ratio is None:
                parts.insert(0, f"plain {cost.seconds} s a sample")
            else:
                bounds = "" if cost.low is None else f" [{cost.low:.2f}, {cost.high:.2f}]"
                parts.append(
                    f"{name_intervention(one['intervention'], one['alpha'])} {cost.ratio:.2f} times that{bounds}"
                )
        yield f"Overhead of {model}: {', '.join(parts)}."


def _sum_up_states(states: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    plain = {
        (one["model"], one["dataset"], one["condition"]): one for one in states if not one["intervention"]
    }
    for after in states:
        before = plain.get((after["model"], after["dataset"], after["condition"]))
        if not after["intervention"] or before is None:
            continue
        distances = before["centroid_distance"], after["centroid_distance"]
        if None not in distances:
            yield (
                f"{after['model']}, {after['dataset']}: the centroids of the final states as text and with the image "
                f"lie {distances[0]:.1f} apart, under "
                f"{name_intervention(after['intervention'], after['alpha'])} {distances[1]:.1f}."
            )


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """The rows of one model that the headline speaks of, None for what the run lacks.

    `best` is the safest of `kept`, the steered rows that keep the bound, or of all `steered` where none does.
    """

    text: Row | None
    image: Row | None
    best: Row | None
    steered: tuple[Row, ...]
    kept: tuple[Row, ...]

    def rows(self) -> list[Row]:
        """Those that there are, in this order."""
        return [row for row in (self.text, self.image, self.best) if row is not None]


def choose_spoken(table: Table, model: str, bound: Bound) -> Spoken:
    """Choose the rows of a model that the headline speaks of."""
    text, image = table.find(model, "query"), table.find(model, "image")
    steered = tuple(
        row
        for row in table.rows
        if row.arm.model == model and row.arm.intervention and row.arm.condition == "image"
    )
    kept = tuple(row for row in steered if image is None or bound.is_kept(table, image, row))
    safety = _find_safety(table)
    best = min(kept or steered, key=lambda row: _rank(table, row, safety), default=None)
    return Spoken(text=text, image=image, best=best, steered=steered, kept=kept)


def _find_safety(table: Table) -> list[int]:
    """One judge's columns, one per data set, so that the same answers are not reported twice."""
    return [place for place in find_leading(table.columns) if table.columns[place].kind == "unsafe"]


def _judge_model(table: Table, model: str, bound: Bound, reasoning: Sequence[ReasoningRate]) -> str:
    safety = _find_safety(table)
    spoken = choose_spoken(table, model, bound)
    text, image, best = spoken.text, spoken.image, spoken.best
    kept, steered = spoken.kept, spoken.steered
    among = ""
    if not any(column.kind in {"utility", "score", "over_refusal"} for column in table.columns):
        among = f" (the safest of {len(steered)})" if len(steered) > 2 else ""
    elif not kept:
        among = " (none keeps the stated bound)"
    elif len(steered) > 2:
        among = f" (the safest of the {len(kept)} of {len(steered)} that keep the stated bound)"
    arms = [
        (name, row)
        for name, row in (
            ("as text", text),
            ("with the image", image),
            (f"under {best.name}{among}" if best else "", best),
        )
        if row is not None
    ]
    shown = [place for place in safety if all(row.cells[place].value.n for _, row in arms)]
    if not shown or image is None or len(arms) < 2:
        return NOT_COMPARED
    rates = ", ".join(
        f"{table.columns[place].dataset} {' / '.join(_percent(row.cells[place]) for _, row in arms)} %"
        for place in shown
    )
    judges = dict.fromkeys(column.judge for column in table.columns if column.kind == "unsafe")
    by = f" by {table.columns[safety[0]].judge}" if len(judges) > 1 else ""
    line = f"Unsafe answers{by} {' / '.join(name for name, _ in arms)}: {rates}"
    line += _describe_no_final([row.arm for _, row in arms], reasoning)
    return f"{line}{_describe_cost(table, image, best)}." if best else f"{line}."


def _rank(table: Table, row: Row, safety: Sequence[int]) -> tuple[float, float]:
    """Sort key: safest first; of equally safe ones the most useful."""
    useful = [
        -_value(row.cells[place])
        for place in find_leading(table.columns)
        if table.columns[place].kind == "utility" and row.cells[place].value.n
    ]
    return sum(_value(row.cells[place]) for place in safety), sum(useful)


def _describe_no_final(arms: Sequence[Arm], reasoning: Sequence[ReasoningRate]) -> str:
    """The share of answers that end with their reasoning, under each arm; '' where there are none."""
    shares = []
    for arm in arms:
        # One rate for each judge has the same counts.
        own = {one.dataset: (one.no_final, one.answers) for one in reasoning if one.arm == arm}
        shares.append(
            sum(count for count, _ in own.values()) / max(1, sum(number for _, number in own.values()))
        )
    if not any(shares):
        return ""
    return f"; without a final answer {' / '.join(f'{100 * share:.1f}' for share in shares)} %"


def _describe_cost(table: Table, before: Row, after: Row) -> str:
    names = {"utility": "utility", "over_refusal": "harmless refused"}
    notes: dict[str, str] = {}
    for column, old, new in zip(table.columns, before.cells, after.cells, strict=True):
        if column.kind in names and old.value.n and new.value.n:
            # By the first judge of the kind; the table has the others.
            notes.setdefault(column.kind, f"; {names[column.kind]} {_percent(old)} → {_percent(new)} %")
    return "".join(notes.values())


def _percent(cell: Cell) -> str:
    return f"{100 * _value(cell):.1f}"


def _value(cell: Cell) -> float:
    return cell.value.value if isinstance(cell.value, Rate) and cell.value.value is not None else 1.0
