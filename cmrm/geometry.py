"""The geometry of hidden states: principal components, and how far two groups lie apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A linear view of states.

    `mean` is [d], `components` [k, d] with orthonormal rows, `explained_variance_ratio` [k]; all float64 on the CPU.
    """

    mean: Tensor
    components: Tensor
    explained_variance_ratio: Tensor

    def project(self, states: Tensor) -> Tensor:
        """Give the coordinates of states [n, d] along the components: float64 [n, k]."""
        return (states.to(self.mean) - self.mean) @ self.components.T


def pca(states: Tensor, *, components: int = 2) -> Projection:
    """Find the directions of greatest variance of states [n, d], by singular value decomposition in float64 on the CPU.

    A direction's sign is arbitrary; here the entry of largest magnitude is positive, so a figure does not flip from
    one run to the next. Raises `ValueError` for fewer than two states, too many components, or values not finite.
    """
    if states.ndim != 2 or states.shape[0] < 2:
        raise ValueError(f"states have shape {tuple(states.shape)}; principal components need [n >= 2, d]")
    if not 1 <= components <= min(states.shape):
        raise ValueError(
            f"{components} components of {tuple(states.shape)} states; at most {min(states.shape)}"
        )
    values = states.detach().to("cpu", torch.float64)
    if not torch.isfinite(values).all():
        raise ValueError("states are not finite; capture them in a wider dtype (bfloat16 or float32)")
    mean = values.mean(dim=0)
    _, singular, directions = torch.linalg.svd(values - mean, full_matrices=False)
    variance = singular.square()
    total = variance.sum()
    ratio = variance / total if total > 0 else torch.zeros_like(variance)
    return Projection(
        mean=mean,
        components=_fix_signs(directions[:components]),
        explained_variance_ratio=ratio[:components],
    )


def centroid_distance(first: Tensor, second: Tensor) -> float:
    """Measure the Euclidean distance between the means of two groups of states, [n, d] and [m, d]."""
    _check_groups(first, second)
    return torch.linalg.vector_norm(first.double().mean(dim=0) - second.double().mean(dim=0)).item()


def separation(first: Tensor, second: Tensor) -> float:
    """Measure the centroid distance in units of the pooled within-group spread; for d = 1 this is Cohen's |d|.

    Spread is the root of the summed squared distances to the own centroid over n + m − 2. Groups of states [n, d]
    and [m, d] without any spread are infinitely far apart, or 0 if they coincide.
    """
    distance = centroid_distance(first, second)
    if first.shape[0] + second.shape[0] < 3:
        raise ValueError("separation needs at least three states in the two groups together")
    scatter = sum(
        (group.double() - group.double().mean(dim=0)).square().sum().item() for group in (first, second)
    )
    if scatter == 0.0:
        return float("inf") if distance > 0.0 else 0.0
    return distance / (scatter / (first.shape[0] + second.shape[0] - 2)) ** 0.5


def _fix_signs(directions: Tensor) -> Tensor:
    largest = directions.abs().argmax(dim=1, keepdim=True)
    signs = torch.where(directions.gather(1, largest) < 0, -1.0, 1.0)
    return directions * signs


def _check_groups(first: Tensor, second: Tensor) -> None:
    for group in (first, second):
        if group.ndim != 2 or group.shape[0] == 0 or group.shape[1] != first.shape[1]:
            raise ValueError(
                f"groups of states have shapes {tuple(first.shape)} and {tuple(second.shape)}; "
                "they must be [n >= 1, d] and [m >= 1, d] with the same d"
            )
