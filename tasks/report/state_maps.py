"""Maps of the final states: two principal components at every block, as few bytes for the report's page."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from storage.records.manifest import Manifest
from storage.shards.hidden_states import list_blocks, list_samples, read_samples
from storage.store import Store
from tasks.report.states import (
    MOST_SAMPLES,
    TEXT,
    Found,
    StateGroup,
    choose_split,
    draw_samples,
    fit_components,
)

# The folder of their file among a report's.
MAPS = "state-maps"
# Points on all maps of a page: at four bytes each, and a third more in base64, they stay below 3 MB.
MOST_POINTS = 500_000
# Coordinates are whole numbers of steps from the least one.
STEPS = 2**16 - 1

Vectors = Mapping[StateGroup, NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class StateSet:
    """The samples of a data set and split that have states in all `groups`; `sample_ids` are those drawn for a map."""

    model: str
    dataset: str
    split: str
    groups: Mapping[StateGroup, Sequence[Path]]
    blocks: Sequence[int]
    common: Sequence[str]
    sample_ids: Sequence[str] = ()

    def read(self, block: int) -> dict[StateGroup, NDArray[np.float32]]:
        """Read the drawn samples' states at a block, [samples, width] of each group."""
        return {group: read_samples(paths, block, self.sample_ids) for group, paths in self.groups.items()}


@dataclass(kw_only=True)
class StateMap:
    """Projections of the states of one or several sets, the same samples in each group, at each block.

    Coordinate = `low` + `step` · number, for each block and axis; `numbers` are uint16 [groups, samples, 2] by block.
    `explained` are the two components' shares of variance by block. `total` counts the samples with states.
    """

    sets: Sequence[StateSet]
    groups: Sequence[StateGroup]
    total: int
    low: dict[int, list[float]] = field(default_factory=dict)
    step: dict[int, list[float]] = field(default_factory=dict)
    explained: dict[int, list[float]] = field(default_factory=dict)
    numbers: dict[int, NDArray[np.uint16]] = field(default_factory=dict)
    last: NDArray[np.float64] | None = None

    def add(self, block: int, vectors: Sequence[Vectors]) -> None:
        """Project the states of its sets at a block; blocks come from the last to the first.

        Each component points the way in which its coordinates agree with those at the block before.
        """
        import torch

        states = [np.concatenate([one[group] for one in vectors]) for group in self.groups]
        projection = fit_components(
            [one for group, one in zip(self.groups, states, strict=True) if not group.intervention]
        )
        points = np.stack([projection.project(torch.from_numpy(one)).numpy() for one in states])
        if self.last is not None:
            points = points * align_signs(points, self.last)
        self.last = points
        low, high = points.min(axis=(0, 1)), points.max(axis=(0, 1))
        step = np.where(high > low, (high - low) / STEPS, 1.0)
        self.numbers[block] = np.rint((points - low) / step).astype("<u2")
        self.low[block], self.step[block] = low.tolist(), step.tolist()
        self.explained[block] = projection.explained_variance_ratio.tolist()

    def to_json(self) -> dict[str, Any]:
        """As JSON types; the points in base64, little-endian, by block, group, sample and axis."""
        blocks = sorted(self.numbers)
        return {
            "model": self.sets[0].model,
            "split": self.sets[0].split,
            "samples": [[one.dataset, list(one.sample_ids)] for one in self.sets],
            "total": self.total,
            "groups": [group._asdict() for group in self.groups],
            "blocks": blocks,
            **{
                name: [[float(f"{number:.7g}") for number in of[block]] for block in blocks]
                for name, of in (("low", self.low), ("step", self.step), ("explained", self.explained))
            },
            "points": b64encode(b"".join(self.numbers[block].tobytes() for block in blocks)).decode(),
        }


def align_signs(points: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sign of each axis, [2], with which points [groups, samples, 2] agree with others of the same samples."""
    centred = [one - one.mean(axis=(0, 1)) for one in (points, other)]
    return np.where((centred[0] * centred[1]).sum(axis=(0, 1)) < 0, -1.0, 1.0)


def find_sets(found: Found) -> list[StateSet]:
    """Find the data sets and splits with at least two samples that have states as text and in another group."""
    sets = []
    for (model, dataset), sides in found.items():
        first = choose_split(sides)
        for split in (first, *(side for side in sides if side != first)):
            groups = sides.get(split, {})
            ids = {group: list_samples(paths) for group, paths in groups.items()}
            present = {group: groups[group] for group, own in ids.items() if own}
            common = sorted(set.intersection(*(set(ids[group]) for group in present))) if present else []
            if TEXT in present and len(present) > 1 and len(common) > 1:
                sets.append(
                    StateSet(
                        model=model,
                        dataset=dataset,
                        split=split,
                        groups=present,
                        blocks=list_blocks(present[TEXT]),
                        common=common,
                    )
                )
    return sets


def make_maps(
    sets: Sequence[StateSet], *, measure: Callable[[StateSet, int, Vectors], None], most: int = MOST_POINTS
) -> list[StateMap]:
    """Make a map of each data set and split, and one of all data sets of a split; one block is in memory at a time.

    A map has at most 2,000 samples, and fewer where all maps would have more than `most` points. `measure` is given the
    states of each set at each block, which are read once.
    """
    gathered = [_plan(together) for together in _gather(sets)]
    limit = _choose_limit([one for plans in gathered for one in plans], most)
    maps = []
    for plans in gathered:
        planned = [_draw_map(one, groups, limit) for one, groups in plans]
        # Those of one data set alone have all samples that are drawn of it.
        alone = [one.sets[0] for one in planned if len(one.sets) == 1]
        for block in reversed(alone[0].blocks):
            read = {one.dataset: one.read(block) for one in alone}
            for one in alone:
                measure(one, block, read[one.dataset])
            rows = {one.dataset: {sample: row for row, sample in enumerate(one.sample_ids)} for one in alone}
            for planned_map in planned:
                planned_map.add(
                    block,
                    [
                        {
                            group: read[own.dataset][group][
                                [rows[own.dataset][sample] for sample in own.sample_ids]
                            ]
                            for group in planned_map.groups
                        }
                        for own in planned_map.sets
                    ],
                )
        maps.extend(planned)
    return maps


def _gather(sets: Sequence[StateSet]) -> list[list[StateSet]]:
    """The sets of each model and split."""
    found: dict[tuple[str, str], list[StateSet]] = {}
    for one in sets:
        found.setdefault((one.model, one.split), []).append(one)
    return list(found.values())


# The sets that a map shows, and their groups.
Plan = tuple[Sequence[StateSet], Sequence[StateGroup]]


def _plan(sets: Sequence[StateSet]) -> list[Plan]:
    """Plan the maps of the sets of one model and split: of all together, and of each."""
    shared = [group for group in sets[0].groups if all(group in one.groups for one in sets)]
    together: list[Plan] = [(sets, shared)] if len(sets) > 1 and len(shared) > 1 else []
    return [*together, *(([one], list(one.groups)) for one in sets)]


def _choose_limit(plans: Sequence[Plan], most: int) -> int:
    """Choose the largest number of samples of a map with which all of them have at most so many points."""

    def count(limit: int) -> int:
        return sum(
            min(len(one.common), _share(limit, sets)) * len(groups) * len(sets[0].blocks)
            for sets, groups in plans
            for one in sets
        )

    return next((limit for limit in range(MOST_SAMPLES, 1, -1) if count(limit) <= most), 1)


def _share(limit: int, sets: Sequence[StateSet]) -> int:
    """How many samples of each set a map of so many has."""
    return max(1, limit // len(sets))


def _draw_map(sets: Sequence[StateSet], groups: Sequence[StateGroup], limit: int) -> StateMap:
    drawn = [replace(one, sample_ids=draw_samples(one.common, _share(limit, sets))) for one in sets]
    return StateMap(sets=drawn, groups=groups, total=sum(len(one.common) for one in sets))


def write_maps(maps: Sequence[StateMap]) -> bytes:
    """Serialize maps as JSON, UTF-8."""
    return json.dumps([one.to_json() for one in maps], ensure_ascii=False).encode()


def read_maps(store: Store, report: Manifest) -> list[dict[str, Any]]:
    """Read the maps that the report stage stored under a manifest, each as `StateMap.to_json` made it; [] for none."""
    paths = [path for path in report.paths("reports") if PurePosixPath(path).parent.name == MAPS]
    return [one for path in paths for one in json.loads(store.read(path))]
