"""The geometry of hidden states: PCA, and the distance between two groups."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Projection:
    """A PCA projection of states.

    `mean` is [d], `components` [k, d] with orthonormal rows, `explained_variance_ratio` [k]; all float64 on the CPU.
    """

    mean: Tensor
    components: Tensor
    explained_variance_ratio: Tensor

    def project(self, states: Tensor) -> Tensor:
        """Project states [n, d] onto the components: float64 [n, k]."""
        return (states.to(self.mean) - self.mean) @ self.components.T


def pca(states: Tensor, *, components: int = 2) -> Projection:
    """Compute the principal components (PCA) of states [n, d], in float64 on the CPU.

    They are eigenvectors of the smaller of the covariance [d, d] and the Gram matrix [n, n] of the centred states. A
    component's sign is arbitrary; as in scikit-learn the entry of largest magnitude is positive, so a figure does not
    flip from one run to the next. Raises `ValueError` for fewer than two states, too many components, or NaN and inf.
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
    # The mean of equal states may round, which would give them a variance: not so the mean of zeros.
    centred = values - values[0]
    offset = centred.mean(dim=0)
    centred -= offset
    if values.shape[1] <= values.shape[0]:
        variances, vectors = _find_largest(centred.T @ centred, components)
    else:
        variances, weights = _find_largest(centred @ centred.T, components)
        # Orthonormal even where there is no variance left.
        vectors = torch.linalg.qr(centred.T @ weights).Q
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return Projection(
        mean=values[0] + offset,
        components=(vectors * torch.where(largest < 0, -1.0, 1.0)).T.contiguous(),
        # Identical states have no variance: 0 / 0.
        explained_variance_ratio=(variances / centred.square().sum()).nan_to_num(),
    )


def _find_largest(matrix: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues of a symmetric positive semi-definite matrix, [count], and their vectors [n, count]."""
    values, vectors = torch.linalg.eigh(matrix)
    return values.flip(0)[:count].clamp(min=0.0), vectors.flip(1)[:, :count]


def centroid_distance(first: Tensor, second: Tensor) -> float:
    """Measure the Euclidean distance between the means of two groups of states, [n, d] and [m, d]."""
    _check_groups(first, second)
    return torch.linalg.vector_norm(first.double().mean(dim=0) - second.double().mean(dim=0)).item()


def separation(first: Tensor, second: Tensor) -> float:
    """Measure the centroid distance in units of the pooled within-group spread; for d = 1 this is Cohen's |d|.

    The spread is the root of the summed squared distances to the own centroid over n + m − 2. For groups of states
    [n, d] and [m, d] without any spread the separation is infinite, or 0 if they coincide.
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


def _check_groups(first: Tensor, second: Tensor) -> None:
    for group in (first, second):
        if group.ndim != 2 or group.shape[0] == 0 or group.shape[1] != first.shape[1]:
            raise ValueError(
                f"groups of states have shapes {tuple(first.shape)} and {tuple(second.shape)}; "
                "they must be [n >= 1, d] and [m >= 1, d] with the same d"
            )
