"""Final hidden states, text against image, per model and data set: separability and principal components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.records.manifest import Manifest
from storage.shards.hidden_states import LAST, HiddenStates, read_last_block
from storage.shards.rows import find_files
from storage.store import Store

if TYPE_CHECKING:
    from cmrm.statistics.geometry import Projection

# A scatter plot of more points shows no more, and no measure here needs them.
MOST_SAMPLES = 2_000
# Rows that principal components are fitted on: of more, the cost grows with the square, and the plane hardly changes.
MOST_FITTED = 1_000
SEED = 0


class StateGroup(NamedTuple):
    """How a group of states was prompted and steered; only `query` is text without an image."""

    condition: str
    intervention: str = ""
    alpha: float | None = None


TEXT = StateGroup("query")
# Files by model and data set, split, and group.
Found = dict[tuple[str, str], dict[str, dict[StateGroup, list[Path]]]]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One model's final states on one data set, the same samples in every group.

    `points` are the first two principal components [n, 2], fitted on the unsteered groups; `apart` is each group's
    separability from the text-only one; `explained` is the components' share of variance.
    """

    model: str
    dataset: str
    split: str
    sample_ids: Sequence[str]
    harmful: Sequence[bool]
    points: Mapping[StateGroup, NDArray[np.float64]]
    explained: tuple[float, ...]
    apart: Mapping[StateGroup, dict[str, Any]]


def find_groups(store: Store, states: Iterable[Manifest]) -> Found:
    """Find the files with states of the last prompt token, by model and data set, split, and group."""
    found: Found = {}
    for manifest in states:
        content, provenance = manifest.content, manifest.provenance
        if content["position"] != LAST:
            continue
        steering = content["intervention"] or {}
        group = StateGroup(content["condition"], content["intervention_name"], steering.get("alpha"))
        sides = found.setdefault((content["name"], provenance["dataset"]), {})
        groups = sides.setdefault(provenance["split"], {})
        groups.setdefault(group, []).extend(find_files(store, manifest, "hidden_states"))
    return found


def make_panels(found: Found, *, harmful: Mapping[tuple[str, str], bool]) -> list[Panel]:
    """Make a panel for each model and data set with states of both text prompts and image prompts."""
    panels = []
    for (model, dataset), sides in found.items():
        split = choose_split(sides)
        read = {group: read_last_block(paths) for group, paths in sides.get(split, {}).items()}
        panel = _make_panel(model, dataset, split, read, harmful)
        if panel is not None:
            panels.append(panel)
    return panels


def choose_split(sides: Mapping[str, Iterable[StateGroup]]) -> str:
    """Choose the split that is shown of a data set: the targets if they have steered states, else the anchors."""
    steered = any(group.intervention for group in sides.get("target", ()))
    return "target" if steered or "anchor" not in sides else "anchor"


def draw_samples(sample_ids: Sequence[str], most: int) -> list[str]:
    """Draw at most so many samples by the seed, in their order; the first draws are the same for any number."""
    return [sample_ids[row] for row in draw_rows(len(sample_ids), most)]


def fit_components(groups: Sequence[NDArray[np.float32]]) -> Projection:
    """Fit two principal components on groups of states [samples, width] of the same samples.

    At most 1,000 states are fitted, those of the same samples of each group.
    """
    import torch

    from cmrm.statistics.geometry import pca

    rows = draw_rows(len(groups[0]), max(2, MOST_FITTED // len(groups)))
    return pca(torch.from_numpy(np.concatenate([one[rows] for one in groups])), components=2)


def draw_rows(count: int, most: int) -> NDArray[np.intp]:
    """Draw at most so many of `count` rows by the seed, ascending; the first draws are the same for any number."""
    return (
        np.sort(np.random.default_rng(SEED).permutation(count)[:most]) if count > most else np.arange(count)
    )


def describe_panel(panel: Panel) -> list[dict[str, Any]]:
    """Describe each group compared with the text-only states, as JSON types."""
    return [
        {
            "model": panel.model,
            "dataset": panel.dataset,
            "split": panel.split,
            **group._asdict(),
            "samples": len(panel.sample_ids),
            **measures,
            "explained": list(panel.explained),
        }
        for group, measures in panel.apart.items()
    ]


def list_points(panel: Panel) -> list[dict[str, Any]]:
    """List the points of a panel's figure: one record per sample and group."""
    return [
        {
            "model": panel.model,
            "dataset": panel.dataset,
            "sample_id": sample,
            "harmful": harmful,
            **group._asdict(),
            "first": round(float(first), 6),
            "second": round(float(second), 6),
        }
        for group, coordinates in panel.points.items()
        for sample, harmful, (first, second) in zip(panel.sample_ids, panel.harmful, coordinates, strict=True)
    ]


def _make_panel(
    model: str,
    dataset: str,
    split: str,
    groups: Mapping[StateGroup, HiddenStates],
    harmful: Mapping[tuple[str, str], bool],
) -> Panel | None:
    from cmrm.statistics.separability import measure_separability

    present = {group: states for group, states in groups.items() if states.sample_ids}
    common = sorted(set.intersection(*(set(one.sample_ids) for one in present.values()))) if present else []
    if TEXT not in present or len(present) < 2 or len(common) < 2:
        return None
    common = draw_samples(common, MOST_SAMPLES)
    vectors = {group: states.choose(common)[:, 0].astype(np.float32) for group, states in present.items()}
    import torch

    projection = fit_components([one for group, one in vectors.items() if not group.intervention])
    return Panel(
        model=model,
        dataset=dataset,
        split=split,
        sample_ids=common,
        harmful=[harmful[dataset, sample] for sample in common],
        points={group: projection.project(torch.from_numpy(one)).numpy() for group, one in vectors.items()},
        # Its last bits depend on how a process parallelizes sums.
        explained=tuple(round(share, 9) for share in projection.explained_variance_ratio.tolist()),
        apart={
            group: measure_separability(vectors[TEXT], one, seed=SEED, groups=[*common, *common]).to_json()
            for group, one in vectors.items()
            if group != TEXT
        },
    )
