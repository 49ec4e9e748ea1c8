"""Separability of two groups of hidden states: silhouette, centroid distance, linear probe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cmrm.statistics.geometry import centroid_distance, separation
from cmrm.statistics.probe import FOLDS, MOST_STATES, build_probe
from cmrm.statistics.rates import Rate


@dataclass(frozen=True, kw_only=True)
class Separability:
    """Separability of two groups of states; None if the states do not allow a measure.

    `silhouette` is −1 to 1, `centroid_distance` in the states' unit, `separation` in units of the spread within the
    groups (None without spread). `probe` is the held-out accuracy of a linear probe; its n counts states, so if samples
    have two each, its interval is too narrow for the number of samples.
    """

    silhouette: float | None
    centroid_distance: float | None
    separation: float | None
    probe: Rate | None

    def to_json(self) -> dict[str, Any]:
        """Convert the measures to plain JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Separability:
        """Restore the output of `to_json`."""
        probe = record["probe"]
        return cls(**{**record, "probe": None if probe is None else Rate(**probe)})


def measure_separability(
    first: Tensor | NDArray[Any],
    second: Tensor | NDArray[Any],
    *,
    seed: int,
    groups: Sequence[str] | None = None,
) -> Separability:
    """Measure the separability of states [n, d] and [m, d], in float64 on the CPU.

    `groups` names the sample of each of the n + m states, those of `first` before those of `second`: states of one
    sample are never on both sides of the probe's split. Without it each state is a sample of its own. Silhouette and
    probe use at most 2,000 states of each group, drawn by the seed. With NaN or inf all measures are None.
    Raises `ValueError` for states of different width and for a wrong number of names.
    """
    states = [torch.as_tensor(group).detach().to("cpu", torch.float64) for group in (first, second)]
    _check(states, groups)
    n, m = (len(group) for group in states)
    if min(n, m) == 0 or not all(torch.isfinite(group).all() for group in states):
        return Separability(silhouette=None, centroid_distance=None, separation=None, probe=None)
    distance, apart = measure_distance(*states)
    generator = np.random.default_rng(seed)
    chosen = np.concatenate(
        [
            np.sort(generator.permutation(n)[:MOST_STATES]),
            np.sort(generator.permutation(m)[:MOST_STATES]) + n,
        ]
    )
    # Distances between points far from the origin lose precision, and hidden states lie far from it.
    values = torch.cat(states).numpy()[chosen]
    values = values - values.mean(axis=0)
    labels = chosen >= n
    names = np.asarray(groups if groups is not None else np.arange(n + m))[chosen]
    return Separability(
        silhouette=_find_silhouette(values, labels),
        centroid_distance=distance,
        separation=apart if apart < float("inf") else None,
        probe=_probe(values, labels, names, seed=seed),
    )


def measure_nearest(first: NDArray[np.float64], second: NDArray[np.float64], *, seed: int) -> Rate | None:
    """Count the held-out states that lie nearer to the centroid of their own group.

    `first` and `second` are states [n, d] of the same n samples in the same order. The samples are halved by the seed;
    each half gives the centroids, and the standard deviation that each number is divided by, for the states of the
    other. This has a closed form and takes a small part of the time of the probe in `measure_separability`. None for
    fewer than four samples.
    """
    if len(first) < 4:
        return None
    halves = np.array_split(np.random.default_rng(seed).permutation(len(first)), 2)
    correct = sum(
        _count_nearest([first[train], second[train]], [first[test], second[test]])
        for train, test in (halves, halves[::-1])
    )
    return Rate(successes=correct, n=2 * len(first))


def _count_nearest(train: Sequence[NDArray[np.float64]], test: Sequence[NDArray[np.float64]]) -> int:
    first, second = (group.mean(axis=0) for group in train)
    variances = np.concatenate(train).var(axis=0)
    direction = (second - first) / np.where(variances > 0.0, variances, 1.0)
    # A tie is for the first: groups that coincide are told apart by chance.
    is_second = [(group - (first + second) / 2) @ direction > 0.0 for group in test]
    return int((~is_second[0]).sum() + is_second[1].sum())


def measure_distance(first: Tensor, second: Tensor) -> tuple[float, float]:
    """Measure the centroid distance and the separation, which is infinite for groups without spread."""
    # The mean of equal states may round, which would give them a spread, and coinciding groups a distance.
    if all((group == group[:1]).all() for group in (first, second)):
        distance = centroid_distance(first[:1], second[:1])
        return distance, float("inf") if distance > 0.0 or len(first) + len(second) == 2 else 0.0
    return centroid_distance(first, second), separation(first, second)


def _find_silhouette(values: NDArray[np.float64], labels: NDArray[np.bool_]) -> float | None:
    from sklearn.metrics import silhouette_score

    # The silhouette is undefined for two groups of one state.
    if len(values) < 3:
        return None
    return float(silhouette_score(values, labels, metric="euclidean"))


def _probe(
    values: NDArray[np.float64], labels: NDArray[np.bool_], names: NDArray[Any], *, seed: int
) -> Rate | None:
    """Count the held-out states that a linear probe classifies correctly, in five folds grouped by sample."""
    from sklearn.model_selection import StratifiedGroupKFold

    if min(len(set(names[labels == side])) for side in (False, True)) < FOLDS:
        return None
    folds = StratifiedGroupKFold(n_splits=FOLDS, shuffle=True, random_state=seed)
    correct = 0
    for train, test in folds.split(values, labels, names):
        # Few samples with very many states can leave a fold without test states, or without one class to train on.
        if not len(test) or len(set(labels[train])) < 2:
            return None
        correct += int(
            (build_probe().fit(values[train], labels[train]).predict(values[test]) == labels[test]).sum()
        )
    return Rate(successes=correct, n=len(values))


def _check(states: Sequence[Tensor], groups: Sequence[str] | None) -> None:
    shapes = [tuple(group.shape) for group in states]
    if any(len(shape) != 2 for shape in shapes) or shapes[0][1] != shapes[1][1] or shapes[0][1] == 0:
        raise ValueError(
            f"groups of states have shapes {shapes[0]} and {shapes[1]}; they must be [n, d] and [m, d] with the same d"
        )
    states_given = shapes[0][0] + shapes[1][0]
    if groups is not None and len(groups) != states_given:
        raise ValueError(
            f"{len(groups)} sample names for {states_given} states; name the sample of each state"
        )
