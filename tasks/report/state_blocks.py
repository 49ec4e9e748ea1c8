"""Final states block by block: how far apart text and images lie, and how far each intervention moves the states."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tasks.report.figure import PALETTE, Figure, label
from tasks.report.figures import name_group
from tasks.report.state_maps import StateSet, Vectors
from tasks.report.states import SEED, TEXT, StateGroup, choose_split, draw_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Record = Mapping[str, Any]

# At each block, of each group, for what compares states one by one.
MOST_MEASURED = 200
# Inches: of a panel, and of each block in it.
LEAST_WIDTH, PER_BLOCK, HEIGHT = 2.6, 0.12, 2.3


def choose_groups(sets: Sequence[StateSet]) -> dict[tuple[str, str, str], list[StateGroup]]:
    """Choose what is measured, by model, data set and split.

    Of each data set these are the groups of the split that its panel shows, and those that only the other split has.
    """
    found: dict[tuple[str, str], dict[str, Sequence[StateGroup]]] = {}
    for one in sets:
        found.setdefault((one.model, one.dataset), {})[one.split] = list(one.groups)
    chosen = {}
    for (model, dataset), sides in found.items():
        taken = {TEXT}
        first = choose_split(sides)
        for split in (first, *(side for side in sides if side != first)):
            chosen[model, dataset, split] = [group for group in sides[split] if group not in taken]
            taken.update(sides[split])
    return chosen


@dataclass(kw_only=True)
class BlockMeasures:
    """Collects a record for each set of states, block and group of `wanted`."""

    wanted: Mapping[tuple[str, str, str], Sequence[StateGroup]]
    records: list[dict[str, Any]] = field(default_factory=list)

    def add(self, states: StateSet, block: int, vectors: Vectors) -> None:
        """Measure the groups of a set at a block, [samples, width] each."""
        import torch

        from cmrm.statistics.separability import measure_distance, measure_nearest

        groups = self.wanted[states.model, states.dataset, states.split]
        if not groups:
            return
        rows = draw_rows(len(vectors[TEXT]), MOST_MEASURED)
        drawn = {group: vectors[group][rows].astype(np.float64) for group in (TEXT, *groups)}
        means = {group: one.mean(axis=0, dtype=np.float64) for group, one in vectors.items()}
        length = float(np.linalg.norm(vectors[TEXT], axis=1).mean(dtype=np.float64))
        for group in groups:
            _, separation = measure_distance(*(torch.from_numpy(drawn[one]) for one in (TEXT, group)))
            nearest = measure_nearest(drawn[TEXT], drawn[group], seed=SEED)
            self.records.append(
                {
                    "model": states.model,
                    "dataset": states.dataset,
                    "split": states.split,
                    **group._asdict(),
                    "block": block,
                    "samples": len(vectors[TEXT]),
                    "measured": len(rows),
                    "state": length,
                    "distance": float(np.linalg.norm(means[group] - means[TEXT])),
                    "separation": separation if separation < float("inf") else None,
                    "nearest": nearest and nearest.value,
                    **_measure_movement(group, means),
                }
            )


def _measure_movement(
    group: StateGroup, means: Mapping[StateGroup, NDArray[np.float64]]
) -> dict[str, float | None]:
    """Measure the mean displacement by an intervention, in units of the distance from text to the unsteered states."""
    plain = StateGroup(group.condition)
    if not group.intervention or plain == TEXT or plain not in means:
        return {"along": None, "across": None}
    shift, moved = means[plain] - means[TEXT], means[group] - means[plain]
    squared = float(shift @ shift)
    if squared == 0.0:
        return {"along": None, "across": None}
    along = -float(moved @ shift) / squared
    return {"along": along, "across": float(np.linalg.norm(moved + along * shift)) / squared**0.5}


def draw_state_blocks(records: Sequence[Record]) -> list[Figure]:
    """Draw one figure per model with a row for each data set and split: four measures over the blocks."""
    return [
        _draw_model(number + 1, model, [one for one in records if one["model"] == model])
        for number, model in enumerate(dict.fromkeys(one["model"] for one in records))
    ]


def _draw_model(number: int, model: str, records: Sequence[Record]) -> Figure:
    records = sorted(records, key=lambda one: one["block"])
    sets = {name: [one for one in records if one["dataset"] == name] for name in _list(records, "dataset")}
    colors = {
        group: PALETTE[place % len(PALETTE)]
        for place, group in enumerate(dict.fromkeys(map(_group, records)))
    }
    steered = any(one["along"] is not None for one in records)
    blocks = len(_list(records, "block"))

    def draw(axes: list[list[Axes]]) -> None:
        for row, (dataset, own) in zip(axes, sets.items(), strict=True):
            for group in dict.fromkeys(map(_group, own)):
                lines = [one for one in own if _group(one) == group]
                name = f"{name_group(group)}, {lines[0]['split']}s"
                plot = partial(_plot, records=lines, color=colors[group])
                plot(row[0], read=lambda one: _share(one["distance"], one["state"]), name=name)
                plot(row[1], read=lambda one: one["separation"])
                plot(row[2], read=lambda one: _share(one["nearest"], 1))
                if steered:
                    plot(row[3], read=lambda one: _share(one["along"], 1))
                    plot(row[3], read=lambda one: _share(one["across"], 1), line="--")
            row[0].set_ylabel(dataset)
            row[0].set_ylim(bottom=0)
            row[2].axhline(50, color="0.5", linewidth=0.6)
            row[2].set_ylim(min(45, row[2].get_ylim()[0]), 103)
            # Most shares are near 100 % or at chance: the room between is free.
            handles, names = row[0].get_legend_handles_labels()
            row[2].legend(handles, names, fontsize=6, loc="best")
        titles = ("distance from text (% of length)", "separation from text", "nearer to own centroid (%)")
        for one, title in zip(axes[0], (*titles, "moved to text (%), dashed: across"), strict=False):
            one.set_title(title, fontsize=8)
        for one in (panel for row in axes for panel in row):
            # Labels of ticks are half of what a figure takes to draw.
            one.locator_params(nbins=4)
            one.tick_params(labelbottom=one in axes[-1])
        for one in axes[-1]:
            one.set_xlabel("block")

    moved = (
        " Last: the mean displacement by each intervention along the way back to the text states, where 100 % is all "
        "of their distance, and across it."
    )
    return Figure(
        name=f"states-blocks-{number}",
        caption=f"{model}: final states at each block, against those of the same questions as text. Distance of the "
        "centroids, which is |Δ| for a meaningless image on the anchors; separation, in units of the spread within the "
        f"groups; held-out states nearer to the centroid of their own group, where 50 % is chance (both of at most "
        f"{MOST_MEASURED} samples; each half gives the centroids for the other)."
        + (moved if steered else ""),
        rows=len(sets),
        columns=4 if steered else 3,
        size=(max(LEAST_WIDTH, PER_BLOCK * blocks), HEIGHT),
        draw=draw,
        data=[dict(one) for one in records],
    )


def _plot(
    axes: Axes,
    *,
    records: Sequence[Record],
    read: Callable[[Record], float | None],
    color: str,
    name: str = "",
    line: str = "-",
) -> None:
    kept = [(one["block"], value) for one in records if (value := read(one)) is not None]
    if not kept:
        return
    blocks, values = zip(*kept, strict=True)
    axes.plot(
        blocks,
        values,
        color=color,
        linestyle=line,
        marker="o",
        markersize=2,
        linewidth=1,
        label=label(name),
    )


def _share(value: float | None, whole: float) -> float | None:
    """A value in per cent of another one; None where there is none."""
    return None if value is None or not whole else 100 * value / whole


def _group(record: Record) -> StateGroup:
    return StateGroup(*(record[name] for name in StateGroup._fields))


def _list(records: Sequence[Record], name: str) -> list[Any]:
    return [*dict.fromkeys(one[name] for one in records)]
