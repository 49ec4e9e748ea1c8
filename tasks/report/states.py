"""Final hidden states, text against image, per model and data set: separability and principal components."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.records.manifest import Manifest
from storage.shards.hidden_states import LAST, HiddenStates, read_last_block
from storage.shards.rows import find_files
from storage.store import Store

# A scatter plot of more points shows no more, and no measure here needs them.
MOST_SAMPLES = 2_000
SEED = 0


class StateGroup(NamedTuple):
    """How a group of states was prompted and steered; only `query` is text without an image."""

    condition: str
    intervention: str = ""
    alpha: float | None = None


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


def make_panels(
    store: Store, states: Iterable[Manifest], *, harmful: Mapping[tuple[str, str], bool]
) -> list[Panel]:
    """Make a panel for each model and data set with states of both text prompts and image prompts.

    If steered states are stored, the panel shows their targets, else the anchors.
    """
    found: dict[tuple[str, str], dict[str, dict[StateGroup, HiddenStates]]] = {}
    for manifest in states:
        content, provenance = manifest.content, manifest.provenance
        if content["position"] != LAST:
            continue
        steering = content["intervention"] or {}
        group = StateGroup(content["condition"], content["intervention_name"], steering.get("alpha"))
        sides = found.setdefault((content["name"], provenance["dataset"]), {})
        groups = sides.setdefault(provenance["split"], {})
        read = read_last_block(find_files(store, manifest, "hidden_states"))
        groups[group] = _join(groups[group], read) if group in groups else read
    panels = []
    for (model, dataset), sides in found.items():
        steered = any(group.intervention for group in sides.get("target", {}))
        split = "target" if steered or "anchor" not in sides else "anchor"
        panel = _make_panel(model, dataset, split, sides.get(split, {}), harmful)
        if panel is not None:
            panels.append(panel)
    return panels


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
    from cmrm.statistics.geometry import pca
    from cmrm.statistics.separability import measure_separability

    text = StateGroup("query")
    present = {group: states for group, states in groups.items() if states.sample_ids}
    common = sorted(set.intersection(*(set(one.sample_ids) for one in present.values()))) if present else []
    if text not in present or len(present) < 2 or len(common) < 2:
        return None
    if len(common) > MOST_SAMPLES:
        drawn = np.random.default_rng(SEED).permutation(len(common))[:MOST_SAMPLES]
        common = [common[place] for place in sorted(drawn)]
    vectors = {group: states.choose(common)[:, 0].astype(np.float32) for group, states in present.items()}
    import torch

    plain = torch.cat([torch.from_numpy(one) for group, one in vectors.items() if not group.intervention])
    projection = pca(plain.float(), components=2)
    return Panel(
        model=model,
        dataset=dataset,
        split=split,
        sample_ids=common,
        harmful=[harmful[dataset, sample] for sample in common],
        points={
            group: projection.project(torch.from_numpy(one).float()).numpy() for group, one in vectors.items()
        },
        # Its last bits depend on how a process parallelizes sums.
        explained=tuple(round(share, 9) for share in projection.explained_variance_ratio.tolist()),
        apart={
            group: measure_separability(vectors[text], one, seed=SEED, groups=[*common, *common]).to_json()
            for group, one in vectors.items()
            if group != text
        },
    )


def _join(first: HiddenStates, second: HiddenStates) -> HiddenStates:
    if not (first.sample_ids and second.sample_ids):
        return first if first.sample_ids else second
    return HiddenStates(
        [*first.sample_ids, *second.sample_ids],
        first.blocks,
        np.concatenate([first.vectors, second.vectors]),
    )
