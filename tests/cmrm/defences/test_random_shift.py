"""The random control turns Δ by a rotation: lengths and angles stay, and every direction is as likely."""

from __future__ import annotations

import pytest
import torch

from cmrm.defences.random_shift import RandomShift, rotate
from cmrm.errors import UserError


def draw(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize(("count", "size"), [(1, 8), (3, 8), (8, 8), (12, 8), (4, 300)])
def test_lengths_and_angles_stay(count: int, size: int) -> None:
    vectors = draw(count, size)
    turned = rotate(vectors, seed=0)
    assert turned.shape == vectors.shape
    assert turned.dtype == torch.float32
    torch.testing.assert_close(turned @ turned.T, vectors @ vectors.T, atol=1e-4, rtol=1e-5)
    assert not torch.allclose(turned, vectors, atol=0.1)


def test_equal_and_zero_vectors_stay_so() -> None:
    vectors = torch.stack([draw(1, 8)[0], torch.zeros(8), draw(1, 8)[0]])
    turned = rotate(vectors, seed=3)
    torch.testing.assert_close(turned[0], turned[2])
    torch.testing.assert_close(turned[1], torch.zeros(8), atol=1e-6, rtol=0)


def test_a_seed_gives_one_rotation_and_another_seed_another() -> None:
    vectors = draw(2, 16)
    assert torch.equal(rotate(vectors, seed=1), rotate(vectors, seed=1))
    assert not torch.allclose(rotate(vectors, seed=1), rotate(vectors, seed=2), atol=0.1)


def test_directions_are_uniform_over_the_sphere() -> None:
    """Coordinates of a uniform unit vector have mean 0, variance 1/n and fourth moment 3/(n(n + 2))."""
    size, draws = 5, 4000
    found = torch.stack([rotate(torch.eye(size)[:2], seed=seed) for seed in range(draws)])
    for vectors in (found[:, 0], found[:, 1]):
        assert vectors.mean(dim=0).abs().max() < 5 * (1 / size / draws) ** 0.5
        spread = vectors.T @ vectors / draws
        torch.testing.assert_close(spread, torch.eye(size) / size, atol=0.02, rtol=0)
        fourth = (vectors**4).mean(dim=0)
        torch.testing.assert_close(fourth, torch.full((size,), 3 / (size * (size + 2))), atol=0.01, rtol=0)


@pytest.mark.parametrize("seed", [-1, 2**63, 10**30])
def test_a_seed_that_no_generator_takes_is_refused_when_the_spec_is_read(seed: int) -> None:
    with pytest.raises(UserError, match=f"seed is {seed}; give a whole number"):
        RandomShift(seed=seed).check()
