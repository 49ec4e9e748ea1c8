"""Backbones in a report: the text-only models beside those of the run, and how far visual training moved the states."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cmrm.prompts.conditions import MEANINGLESS
from cmrm.statistics.state_changes import measure_change
from storage.records.manifest import Manifest
from storage.shards.hidden_states import list_blocks, list_samples, read_samples
from storage.store import Store
from tasks.report.figure import PALETTE, SHAPES, Figure, label
from tasks.report.outcomes import find_leading
from tasks.report.states import MOST_SAMPLES, TEXT, StateGroup, draw_samples, find_groups
from tasks.report.table import CONDITION_NAMES, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Part of the key of reports with backbones: raise it when the same rows yield other numbers or figures.
VERSION = 1
SIDE = "anchor"
SHOWN = {"query": "as text", "caption": "as text with the caption"}
# Inches: of a panel, and of each block in it.
LEAST_WIDTH, PER_BLOCK, HEIGHT = 3.2, 0.16, 2.8

# Files of the anchors' plain states by condition, for each data set.
_Files = Mapping[str, Mapping[str, Sequence[Path]]]


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A text-only model beside one of the run's; `record` is as `ModelUse.describe` returns it.

    `unlike` says why its states are not compared with that model's, '' if they are.
    """

    record: Mapping[str, Any]
    unlike: str = ""

    @property
    def name(self) -> str:
        """Its name in tables."""
        return str(self.record["name"])

    @property
    def of(self) -> str:
        """The model that it stands beside."""
        return str(self.record["of"])

    @property
    def template(self) -> str:
        """Whose prompts it was shown: the `model`'s, or its `own`."""
        return str(self.record["backbone"]["template"])


@dataclass(frozen=True, kw_only=True)
class BackboneBlock:
    """States of the anchors' text prompts at a block, a backbone's against those of the model that was made from it.

    From the backbone to that model: `cosine` (mean, and the `least`), `relative` (mean length of the difference, in
    units of the backbone's state) and `shift`, the length of the mean difference; `state` is the mean length of the
    backbone's states. `images` holds |Δ| of the meaningless images, on the same anchors.
    """

    model: str
    of: str
    block: int
    samples: int
    state: float
    cosine: float | None
    least: float | None
    relative: float | None
    shift: float
    images: Mapping[str, float] = field(default_factory=dict)


def name_backbones(described: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The model that each backbone stands beside, by the backbone's name; from `ModelUse.describe`."""
    return {one["name"]: one["of"] for one in described}


def compare_backbones(
    store: Store, described: Sequence[Mapping[str, Any]], states: Sequence[Manifest]
) -> tuple[list[Backbone], list[BackboneBlock]]:
    """Compare each backbone's states with its model's, at each block, on the anchors that have all of them."""
    if not described:
        return [], []
    files: dict[str, dict[str, dict[str, list[Path]]]] = {}
    for (model, dataset), sides in find_groups(store, states).items():
        groups = sides.get(SIDE, {})
        files.setdefault(model, {})[dataset] = {
            group.condition: paths for group, paths in groups.items() if group == StateGroup(group.condition)
        }
    backbones, blocks = [], []
    for one in described:
        unlike, found = _compare(one["name"], one["of"], files.get(one["name"], {}), files.get(one["of"], {}))
        backbones.append(Backbone(record=one, unlike=unlike))
        blocks += found
    return backbones, blocks


def _compare(name: str, of: str, alone: _Files, within: _Files) -> tuple[str, list[BackboneBlock]]:
    """Say why two models' states cannot be compared, '' if they can; and compare them."""
    text = TEXT.condition
    sets = {}
    for dataset in alone:
        seen = within.get(dataset, {})
        shown: dict[str, Sequence[Path]] = {text: seen.get(text, ())}
        shown |= {image: seen[image] for image in MEANINGLESS if image in seen}
        ids = [set(list_samples(paths)) for paths in (alone[dataset].get(text, ()), *shown.values())]
        if common := sorted(set.intersection(*ids)):
            sets[dataset] = (draw_samples(common, MOST_SAMPLES), alone[dataset][text], shown)
    if not sets:
        return "no anchor has states of both", []
    blocks = list_blocks([path for _, paths, _ in sets.values() for path in paths])
    others = list_blocks([path for _, _, shown in sets.values() for path in shown[text]])
    if blocks != others:
        return f"it has {len(blocks)} decoder blocks, and {of} has {len(others)}", []
    found = []
    for block in blocks:
        before = _read([(ids, paths) for ids, paths, _ in sets.values()], block)
        after = _read([(ids, shown[text]) for ids, _, shown in sets.values()], block)
        if before.shape != after.shape:
            return f"its states have {before.shape[1]} numbers, and those of {of} {after.shape[1]}", []
        change = measure_change(before, after)
        found.append(
            BackboneBlock(
                model=name,
                of=of,
                block=block,
                samples=change.samples,
                state=change.length,
                cosine=change.cosine,
                least=change.least_cosine,
                relative=change.relative,
                shift=change.shift,
                images={
                    image: measure_change(
                        after, _read([(ids, shown[image]) for ids, _, shown in sets.values()], block)
                    ).shift
                    for image in MEANINGLESS
                    if all(image in shown for _, _, shown in sets.values())
                },
            )
        )
    return "", found


def _read(parts: Sequence[tuple[Sequence[str], Sequence[Path]]], block: int) -> NDArray[np.float32]:
    return np.concatenate([read_samples(paths, block, ids) for ids, paths in parts])


def sum_up_backbones(table: Table, backbones: Mapping[str, str]) -> Iterator[str]:
    """One line for each backbone and condition: unsafe rates of it and of its model, on the same questions."""
    for row in table.rows:
        if row.arm.model not in backbones:
            continue
        rates = [
            f"{table.columns[place].dataset} {_percent(change.after)} / {_percent(change.before)} %"
            for place in find_leading(table.columns)
            if table.columns[place].kind == "unsafe"
            and (change := row.cells[place].change) is not None
            and change.n
        ]
        if rates:
            shown = SHOWN.get(row.arm.condition) or CONDITION_NAMES[row.arm.condition].lower()
            yield (
                f"Unsafe answers of {row.arm.model} / of {backbones[row.arm.model]}, {shown}, in pairs: "
                f"{', '.join(rates)}."
            )


def draw_backbones(blocks: Sequence[BackboneBlock]) -> list[Figure]:
    """Draw one figure for each backbone: cosine over the blocks, and its distance beside |Δ|."""
    return [
        _draw(number + 1, name, [one for one in blocks if one.model == name])
        for number, name in enumerate(dict.fromkeys(one.model for one in blocks))
    ]


def _draw(number: int, name: str, rows: Sequence[BackboneBlock]) -> Figure:
    of = rows[0].of
    numbers = [one.block for one in rows]
    lines = {
        "visual training": [one.shift / one.state if one.state else None for one in rows],
        **{
            f"Δ of {image}": [one.images[image] / one.state if one.state else None for one in rows]
            for image in rows[0].images
        },
    }

    def draw(axes: list[list[Axes]]) -> None:
        cosines, lengths = axes[0]
        for color, shape, title, values in (
            (PALETTE[0], SHAPES[0], "mean", [one.cosine for one in rows]),
            (PALETTE[1], SHAPES[1], "least of the anchors", [one.least for one in rows]),
        ):
            _plot(cosines, numbers, values, color=color, shape=shape, name=title)
        cosines.set_title("cosine of the states")
        for (title, shares), color, shape in zip(lines.items(), PALETTE, SHAPES, strict=False):
            percents = [None if share is None else 100 * share for share in shares]
            _plot(lengths, numbers, percents, color=color, shape=shape, name=title)
        lengths.set_title("mean shift, % of the states' length")
        lengths.set_ylim(bottom=0)
        for one in axes[0]:
            one.set_xlabel("block")
            one.legend(fontsize=6)

    return Figure(
        name=f"backbones-{number}",
        caption=f"{of} against {name}: states of the same {rows[0].samples} anchors as text at each block. Left: "
        "cosine between the two models' states. Right: length of the mean shift that visual training made, beside that "
        "of Δ, the shift that a meaningless image makes.",
        rows=1,
        columns=2,
        size=(max(LEAST_WIDTH, PER_BLOCK * len(numbers)), HEIGHT),
        draw=draw,
        data=[
            {
                **{key: value for key, value in asdict(one).items() if key != "images"},
                **{f"delta_{image}": length for image, length in one.images.items()},
            }
            for one in rows
        ],
    )


def _plot(
    axes: Axes,
    blocks: Sequence[int],
    values: Sequence[float | None],
    *,
    color: str,
    shape: str,
    name: str,
) -> None:
    kept = [(block, value) for block, value in zip(blocks, values, strict=True) if value is not None]
    if not kept:
        return
    places, numbers = zip(*kept, strict=True)
    axes.plot(places, numbers, color=color, marker=shape, markersize=3, linewidth=1, label=label(name))


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
