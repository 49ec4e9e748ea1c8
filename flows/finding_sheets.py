"""The tables beside the main one: final states, overhead, what was set aside, shifts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cmrm.ratios import Cost
from cmrm.separability import Separability
from flows.document import Band, Heading, Measure, Sheet, head_numbers, make_bands, shorten_models
from flows.main_sheets import flatten_value
from flows.wording import NONE, NOT_MEASURED, percent, plain, write_value
from tasks.figures import name_group
from tasks.states import Group

Record = Mapping[str, Any]


def make_states_sheet(states: Sequence[Record]) -> Sheet | None:
    """How far groups of final states lie from the text-only ones."""
    if not states:
        return None
    return Sheet(
        name="states",
        title="Final states, against those of the same questions as text",
        headings=(
            Heading(title="Data set", numeric=False),
            Heading(title="States", numeric=False),
            *head_numbers("n", "Silhouette", "Centroid distance", "Separation", "Probe’s accuracy"),
            *head_numbers("Variance explained"),
        ),
        bands=_band(states, _write_states),
        records=tuple(map(_flatten_states, states)),
        note="Silhouette from −1 to 1, near 0 where the groups overlap. Centroid distance in the states’ own unit; "
        "separation is that distance in units of the spread within the groups. The probe is linear and reads held-out "
        "questions: 50 % is chance. Variance explained is that of the first two principal components.",
    )


def make_overhead_sheet(costs: Sequence[Record]) -> Sheet | None:
    """Seconds a sample, plain and under each intervention, and the ratio of the two."""
    if not costs:
        return None
    # All data sets together come last.
    costs = sorted(costs, key=lambda cost: not cost["dataset"])
    devices = ", ".join(dict.fromkeys(cost["device"] for cost in costs))
    return Sheet(
        name="overhead",
        title="Overhead",
        headings=(
            Heading(title="Data set", numeric=False),
            Heading(title="Answering", numeric=False),
            *head_numbers("Seconds per sample", "Times plain", "Tokens per sample", "Batches"),
        ),
        bands=_band(costs, _write_cost),
        records=tuple(_flatten_cost(cost) for cost in costs),
        note=f"Measured on {devices}, the same batches in turn; 95 % bootstrap intervals over batches.",
    )


def make_quarantine_sheet(quarantined: Sequence[Record]) -> Sheet | None:
    """What was set aside, by reason."""
    if not quarantined:
        return None
    return Sheet(
        name="quarantine",
        title="Set aside",
        headings=(
            *(Heading(title=title, numeric=False) for title in ("Stage", "Data set", "Reason")),
            *head_numbers("Rows"),
        ),
        bands=make_bands(
            [
                (
                    "",
                    (
                        *(Measure(text=one[name]) for name in ("stage", "dataset", "reason")),
                        _count(one["rows"]),
                    ),
                )
                for one in quarantined
            ],
            {},
        ),
        records=tuple(quarantined),
    )


def make_shift_sheet(shifts: Sequence[Record]) -> Sheet | None:
    """The dataset-level shifts that the run measured."""
    if not shifts:
        return None
    return Sheet(
        name="shifts",
        title="Shifts",
        headings=(
            Heading(title="Meaningless image", numeric=False),
            Heading(title="Method", numeric=False),
            *head_numbers("Anchors"),
            Heading(title="Key", numeric=False),
        ),
        bands=_band(shifts, _write_shift),
        records=tuple(shifts),
        note="Δ per block: state with the meaningless image − state without, over the anchors; it is subtracted. "
        "Kept as shifts/<key>….safetensors.",
    )


def _band(records: Sequence[Record], write: Callable[[Record], tuple[Measure, ...]]) -> tuple[Band, ...]:
    names = shorten_models(list(dict.fromkeys(one["model"] for one in records)))
    return make_bands([(one["model"], write(one)) for one in records], names)


def _write_states(one: Record) -> tuple[Measure, ...]:
    found = _read_states(one)
    numbers = (found.silhouette, found.centroid_distance, found.separation)
    explained = " + ".join(percent(share) for share in one["explained"])
    return (
        Measure(text=one["dataset"]),
        Measure(text=_name_states(one)),
        _count(one["samples"]),
        *(Measure(text=plain(number) or NOT_MEASURED) for number in numbers),
        Measure(text=NOT_MEASURED) if found.probe is None else write_value(found.probe),
        Measure(text=explained),
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
    return name_group(Group(*(one[name] for name in Group._fields)))


def _write_cost(one: Record) -> tuple[Measure, ...]:
    cost = Cost.from_json(one["cost"])
    way = f"{one['intervention']} α={one['alpha']:g}" if one["intervention"] else "plain"
    seconds = cost.seconds
    ratio = NONE
    if cost.ratio is not None:
        ratio = Measure(text=plain(cost.ratio), low=plain(cost.low), high=plain(cost.high))
    return (
        Measure(text=one["dataset"] or "all"),
        Measure(text=way),
        Measure(text=_seconds(seconds.value), low=_seconds(seconds.low), high=_seconds(seconds.high)),
        ratio,
        Measure(text=f"{one['tokens']:.1f}"),
        _count(cost.n),
    )


def _flatten_cost(one: Record) -> dict[str, Any]:
    cost = Cost.from_json(one["cost"])
    seconds = {f"seconds_{name}": getattr(cost.seconds, name) for name in ("value", "low", "high")}
    ratio = {"ratio": cost.ratio, "ratio_low": cost.low, "ratio_high": cost.high, "batches": cost.n}
    return {name: value for name, value in one.items() if name != "cost"} | seconds | ratio


def _seconds(value: float | None) -> str:
    """Three digits that count: a model takes milliseconds or minutes."""
    return "" if value is None else f"{value:#.3g}".removesuffix(".")


def _write_shift(one: Record) -> tuple[Measure, ...]:
    return (
        Measure(text=one["image"]),
        Measure(text=one["method"]),
        _count(one["anchors"]),
        Measure(text=one["key"][:12]),
    )


def _count(number: int) -> Measure:
    return Measure(text=f"{number:,}")
