from __future__ import annotations

import pytest
import torch

from cmrm.statistics.geometry import centroid_distance, pca, separation


def cloud(n: int = 60, d: int = 7, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator) * torch.arange(1, d + 1) + 3.0


def test_components_are_the_eigenvectors_of_the_covariance():
    states = cloud().double()
    projection = pca(states, components=3)
    values, vectors = torch.linalg.eigh(torch.cov(states.T))
    for found, expected in zip(projection.components, vectors.flip(1).T[:3], strict=True):
        assert torch.dot(found, expected).abs().item() == pytest.approx(1.0, abs=1e-9)
    torch.testing.assert_close(projection.explained_variance_ratio, (values / values.sum()).flip(0)[:3])


@pytest.mark.parametrize(("n", "d"), [(300, 80), (80, 300), (12, 12), (2, 9)])
def test_components_of_many_and_of_wide_states_are_those_of_their_singular_values(n, d):
    states = cloud(n=n, d=d).double() + 1e3
    found = pca(states)
    _, values, rows = torch.linalg.svd(states - states.mean(dim=0), full_matrices=False)
    agreement = (found.components @ rows[:2].T).abs()
    # Two states have one component, and any other at a right angle beside it.
    kept = 1 if n == 2 else 2
    torch.testing.assert_close(agreement[:kept, :kept], torch.eye(kept).double(), atol=1e-7, rtol=0)
    torch.testing.assert_close(found.components @ found.components.T, torch.eye(2).double())
    shares = values.square() / values.square().sum()
    torch.testing.assert_close(found.explained_variance_ratio, shares[:2], atol=1e-9, rtol=0)


def test_equal_states_have_no_variance_even_where_their_mean_rounds():
    for value in (0.1, 0.3, 7.7):
        assert pca(torch.full((7, 3), value)).explained_variance_ratio.tolist() == [0.0, 0.0]


def test_projected_states_are_centred():
    states = cloud()
    assert pca(states).project(states).mean(dim=0).abs().max().item() < 1e-9


def test_new_states_are_projected_with_the_mean_of_the_old():
    projection = pca(cloud())
    torch.testing.assert_close(
        projection.project(projection.mean[None]), torch.zeros(1, 2, dtype=torch.float64)
    )


def test_signs_do_not_depend_on_the_order_of_the_states():
    states = cloud()
    torch.testing.assert_close(pca(states).components, pca(states.flip(0)).components)
    assert (pca(states).components.abs().max(dim=1).values == pca(states).components.max(dim=1).values).all()


def test_half_precision_states_are_projected_in_double():
    states = cloud().to(torch.bfloat16)
    assert pca(states).project(states).dtype == torch.float64


def test_identical_states_have_no_variance_to_explain():
    assert pca(torch.ones(5, 4)).explained_variance_ratio.tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("states", "components"),
    [(torch.ones(1, 4), 1), (torch.ones(4), 1), (torch.ones(5, 4), 5), (torch.full((5, 4), float("nan")), 2)],
)
def test_states_without_components_are_refused(states, components):
    with pytest.raises(ValueError, match="states"):
        pca(states, components=components)


def test_centroid_distance_is_the_length_of_the_mean_shift():
    states = cloud()
    shift = torch.tensor([3.0, 4.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert centroid_distance(states, states + shift) == pytest.approx(5.0, abs=1e-5)


def test_separation_in_one_dimension_is_cohens_d():
    first, second = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[5.0], [6.0], [7.0]])
    assert separation(first, second) == pytest.approx(4.0)


def test_groups_without_spread_are_infinitely_far_apart_or_the_same():
    assert separation(torch.zeros(2, 3), torch.ones(2, 3)) == float("inf")
    assert separation(torch.ones(2, 3), torch.ones(2, 3)) == 0.0


def test_groups_of_different_width_are_refused():
    with pytest.raises(ValueError, match="same d"):
        centroid_distance(torch.ones(2, 3), torch.ones(2, 4))
    with pytest.raises(ValueError, match="n >= 1"):
        centroid_distance(torch.ones(0, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match="three states"):
        separation(torch.ones(1, 3), torch.ones(1, 3))
