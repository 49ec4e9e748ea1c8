"""The geometry of hidden states: PCA, and the distance between two groups."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
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


def pca(states: Tensor, *, components: int = 2, solver: Literal["full", "arpack"] = "full") -> Projection:
    """Compute the principal components (PCA) of states [n, d] by an SVD in float64 on the CPU.

    `solver` is scikit-learn's: the full SVD, or ARPACK, which finds the first components alone to the same precision
    and takes a fraction of the time for thousands of states. A component's sign is arbitrary; scikit-learn makes the
    entry of largest magnitude positive, so a figure does not flip from one run to the next. Raises `ValueError` for
    fewer than two states, too many components, or NaN and inf.
    """
    # Importing scikit-learn takes a second, and few of a run's processes project states.
    from sklearn.decomposition import PCA

    if states.ndim != 2 or states.shape[0] < 2:
        raise ValueError(f"states have shape {tuple(states.shape)}; principal components need [n >= 2, d]")
    if not 1 <= components <= min(states.shape):
        raise ValueError(
            f"{components} components of {tuple(states.shape)} states; at most {min(states.shape)}"
        )
    values = states.detach().to("cpu", torch.float64)
    if components == min(states.shape) or (values == values[:1]).all():
        # ARPACK finds neither all components nor those of states without variance.
        solver = "full"
    if not torch.isfinite(values).all():
        raise ValueError("states are not finite; capture them in a wider dtype (bfloat16 or float32)")
    # Identical states have no variance: 0 / 0.
    with np.errstate(invalid="ignore"):
        fitted = PCA(n_components=components, svd_solver=solver, random_state=0).fit(values.numpy())
    return Projection(
        mean=torch.from_numpy(fitted.mean_),
        components=torch.from_numpy(np.ascontiguousarray(fitted.components_)),
        explained_variance_ratio=torch.from_numpy(fitted.explained_variance_ratio_.copy()).nan_to_num(),
    )


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
