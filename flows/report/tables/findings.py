"""Tables besides the main one: separability of final states, overhead, quarantined rows, shifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cmrm.statistics.ratios import Cost
from cmrm.statistics.separability import Separability
from flows.report.document import Heading, ReportCell, ReportTable, RowGroup, head_numbers, make_row_groups
from flows.report.number_format import NONE, NOT_MEASURED, percent, plain, write_value
from flows.report.tables.main import flatten_value
from tasks.report.figures import name_group
from tasks.report.model_names import shorten_models
from tasks.report.outcomes import name_intervention
from tasks.report.states import StateGroup
from tasks.report.summary import QuarantineCount, ShiftSummary

Record = Mapping[str, Any]


def make_states_table(states: Sequence[Record]) -> ReportTable | None:
    """Make the table of separability between groups of final states and the text-only states."""
    if not states:
        return None
    return ReportTable(
        name="states",
        title="Final states, against those of the same questions as text",
        headings=(
            Heading(title="Data set", numeric=False),
            Heading(title="States", numeric=False),
            *head_numbers("n", "Silhouette", "Centroid distance", "Separation", "Probe’s accuracy"),
            *head_numbers("Variance explained"),
        ),
        row_groups=_group_by_model(states, _write_states),
        records=tuple(map(_flatten_states, states)),
        note="Silhouette from −1 to 1, near 0 where the groups overlap. Centroid distance in the states’ own unit; "
        "separation is that distance in units of the spread within the groups. The probe is linear and reads held-out "
        "questions: 50 % is chance. Variance explained is that of the first two principal components.",
    )


def make_overhead_table(costs: Sequence[Record]) -> ReportTable | None:
    """Make the table of overhead: seconds per sample, baseline and each intervention, and their ratio."""
    if not costs:
        return None
    # The total over all data sets comes last.
    costs = sorted(costs, key=lambda cost: not cost["dataset"])
    devices = ", ".join(dict.fromkeys(cost["device"] for cost in costs))
    return ReportTable(
        name="overhead",
        title="Overhead",
        headings=(
            Heading(title="Data set", numeric=False),
            Heading(title="Answering", numeric=False),
            *head_numbers("Seconds per sample", "Times plain", "Tokens per sample", "Batches"),
        ),
        row_groups=_group_by_model(costs, _write_cost),
        records=tuple(_flatten_cost(cost) for cost in costs),
        note=f"Measured on {devices}, arms interleaved on the same batches; 95 % bootstrap intervals over batches.",
    )


def make_quarantine_table(quarantined: Sequence[QuarantineCount]) -> ReportTable | None:
    """Make the table of quarantined rows by reason."""
    if not quarantined:
        return None
    return ReportTable(
        name="quarantine",
        title="Quarantined",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Stage", "Data set", "Reason")),
            *head_numbers("Rows"),
        ),
        row_groups=make_row_groups(
            [
                (
                    "",
                    (
                        *(ReportCell(text=text) for text in (one.stage, one.dataset, one.reason)),
                        _count(one.rows),
                    ),
                )
                for one in quarantined
            ],
            {},
        ),
        records=tuple(map(asdict, quarantined)),
    )


def make_shift_table(shifts: Sequence[ShiftSummary]) -> ReportTable | None:
    """Make the table of the run's dataset-level shifts."""
    if not shifts:
        return None
    parts = any(one.part != "all" for one in shifts)
    return ReportTable(
        name="shifts",
        title="Shifts",
        headings=(
            Heading(title="Meaningless image", numeric=False),
            Heading(title="Method", numeric=False),
            *([Heading(title="Part", numeric=False)] if parts else []),
            *head_numbers("Anchors"),
            Heading(title="Key", numeric=False),
        ),
        row_groups=make_row_groups(
            [(one.model, _write_shift(one, parts=parts)) for one in shifts],
            shorten_models(list(dict.fromkeys(one.model for one in shifts))),
        ),
        records=tuple(map(asdict, shifts)),
        note="Δ per block: state with the meaningless image − state without, over the anchors; it is subtracted. "
        "Stored as shifts/<key>….safetensors.",
    )


def _group_by_model(
    records: Sequence[Record], write: Callable[[Record], tuple[ReportCell, ...]]
) -> tuple[RowGroup, ...]:
    return make_row_groups([(one["model"], write(one)) for one in records])


def _write_states(one: Record) -> tuple[ReportCell, ...]:
    found = _read_states(one)
    numbers = (found.silhouette, found.centroid_distance, found.separation)
    explained = " + ".join(percent(share) for share in one["explained"])
    return (
        ReportCell(text=one["dataset"]),
        ReportCell(text=_name_states(one)),
        _count(one["samples"]),
        *(ReportCell(text=plain(number) or NOT_MEASURED) for number in numbers),
        ReportCell(text=NOT_MEASURED) if found.probe is None else write_value(found.probe),
        ReportCell(text=explained),
    )


def _flatten_states(one: Record) -> dict[str, Any]:
    probe = _read_states(one).probe
    values = {} if probe is None else flatten_value(probe)
    kept = {name: value for name, value in one.items() if name not in ("probe", "explained")}
    shares = {f"explained_{place + 1}": share for place, share in enumerate(one["explained"])}
    return kept | {f"probe_{name}": value for name, value in values.items()} | shares


def _read_states(one: Record) -> Separability:
    measures = ("silhouette", "centroid_distance", "separation", "probe")
    return Separability.from_json({name: one[name] for name in measures})


def _name_states(one: Record) -> str:
    return name_group(StateGroup(*(one[name] for name in StateGroup._fields)))


def _write_cost(one: Record) -> tuple[ReportCell, ...]:
    cost = Cost.from_json(one["cost"])
    arm = name_intervention(one["intervention"], one["alpha"]) if one["intervention"] else "plain"
    seconds = cost.seconds
    ratio = NONE
    if cost.ratio is not None:
        ratio = ReportCell(text=plain(cost.ratio), low=plain(cost.low), high=plain(cost.high))
    return (
        ReportCell(text=one["dataset"] or "all"),
        ReportCell(text=arm),
        ReportCell(text=_seconds(seconds.value), low=_seconds(seconds.low), high=_seconds(seconds.high)),
        ratio,
        ReportCell(text=f"{one['tokens']:.1f}"),
        _count(cost.n),
    )


def _flatten_cost(one: Record) -> dict[str, Any]:
    cost = Cost.from_json(one["cost"])
    seconds = {f"seconds_{name}": getattr(cost.seconds, name) for name in ("value", "low", "high")}
    ratio = {"ratio": cost.ratio, "ratio_low": cost.low, "ratio_high": cost.high, "batches": cost.n}
    return {name: value for name, value in one.items() if name != "cost"} | seconds | ratio


def _seconds(value: float | None) -> str:
    """Format seconds to three significant digits."""
    return "" if value is None else f"{value:#.3g}".removesuffix(".")


def _write_shift(one: ShiftSummary, *, parts: bool) -> tuple[ReportCell, ...]:
    return (
        ReportCell(text=one.image),
        ReportCell(text=one.method),
        *([ReportCell(text=one.part)] if parts else []),
        _count(one.anchors),
        ReportCell(text=one.key[:12]),
    )


def _count(number: int) -> ReportCell:
    return ReportCell(text=f"{number:,}")
