from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from cmrm.statistics import separability
from cmrm.statistics.geometry import centroid_distance, separation
from cmrm.statistics.probe import build_probe
from cmrm.statistics.separability import (
    MOST_STATES,
    Separability,
    measure_nearest,
    measure_separability,
)


def cloud(n: int, d: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator)


def names(n: int) -> list[str]:
    return [f"sample {i}" for i in range(n)]


def test_groups_far_apart_are_told_apart_by_each_measure():
    first = cloud(40, 16)
    second = cloud(40, 16, seed=1) + 20.0
    found = measure_separability(first, second, seed=0, groups=names(40) * 2)
    assert found.silhouette > 0.8
    assert (found.probe.successes, found.probe.n) == (80, 80)
    assert found.centroid_distance == pytest.approx(centroid_distance(first, second))
    assert found.separation == pytest.approx(separation(first, second))


def test_groups_of_one_kind_are_not_told_apart():
    found = measure_separability(cloud(200, 8), cloud(200, 8, seed=1), seed=0)
    assert abs(found.silhouette) < 0.05
    low, high = found.probe.interval
    assert low < 0.5 < high


def test_the_silhouette_is_the_one_worked_out_by_hand():
    # Own group 2 away, the other 9, 11 and 7, 9: (10−2)/10, (8−2)/8, (8−2)/8, (10−2)/10.
    found = measure_separability(torch.tensor([[0.0], [2.0]]), torch.tensor([[9.0], [11.0]]), seed=0)
    assert found.silhouette == pytest.approx((0.8 + 0.75) / 2)


def test_states_of_one_sample_never_stand_on_both_sides_of_the_split():
    # Ten samples of 30 nearly equal states each, at random places, whose group is a matter of chance: who has seen a
    # sample's other states knows the answer, who has not can only guess.
    states = (10 * cloud(10, 500)).repeat_interleave(30, dim=0) + 0.01 * cloud(300, 500, seed=1)
    samples = [name for name in names(10) for _ in range(30)]
    known = measure_separability(states[:150], states[150:], seed=0)
    unknown = measure_separability(states[:150], states[150:], seed=0, groups=samples)
    assert known.probe.value == 1.0
    assert unknown.probe.value < 0.9


def test_a_shift_along_one_direction_is_found_between_states_of_the_same_samples():
    states = 3.0 * cloud(60, 4) @ cloud(4, 32, seed=1)
    direction = torch.nn.functional.normalize(cloud(1, 32, seed=2))
    found = measure_separability(states, states + 2.0 * direction, seed=0, groups=names(60) * 2)
    assert found.probe.value > 0.95
    assert found.silhouette < 0.1


def test_the_same_seed_gives_the_same_measures():
    first, second = cloud(50, 6), cloud(50, 6, seed=1) + 0.5
    found = measure_separability(first, second, seed=3)
    assert found == measure_separability(first, second, seed=3)
    assert found.silhouette == measure_separability(first, second, seed=4).silhouette


def test_arrays_and_half_precision_are_measured_as_tensors_are():
    first, second = cloud(20, 6).bfloat16(), (cloud(20, 6, seed=1) + 1.0).bfloat16()
    found = measure_separability(first, second, seed=0)
    assert found == measure_separability(first.float().numpy(), second.float().numpy(), seed=0)
    assert found == measure_separability(first.double().requires_grad_(), second.double(), seed=0)


def test_distance_from_the_origin_does_not_blur_the_silhouette():
    first, second = cloud(30, 6).double(), cloud(30, 6, seed=1).double() + 2.0
    near = measure_separability(first, second, seed=0)
    far = measure_separability(first + 1e7, second + 1e7, seed=0)
    assert far.silhouette == pytest.approx(near.silhouette, abs=1e-6)


def test_large_groups_are_measured_on_a_drawn_part():
    first, second = cloud(MOST_STATES + 300, 2), cloud(50, 2, seed=1) + 30.0
    found = measure_separability(first, second, seed=0)
    assert found.probe.n == MOST_STATES + 50
    assert found.centroid_distance == pytest.approx(centroid_distance(first, second))


@pytest.mark.parametrize(("n", "samples"), [(4, None), (8, ["a", "a", "b", "b", "c", "c", "d", "d"] * 2)])
def test_fewer_than_five_samples_have_no_probe(n, samples):
    found = measure_separability(cloud(n, 3), cloud(n, 3, seed=1) + 9.0, seed=0, groups=samples)
    assert found.probe is None
    assert found.silhouette > 0.5


def test_five_samples_have_a_probe():
    found = measure_separability(cloud(5, 3), cloud(5, 3, seed=1) + 9.0, seed=0, groups=names(5) * 2)
    assert (found.probe.successes, found.probe.n) == (10, 10)


@pytest.mark.parametrize("flaw", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_not_measured(flaw):
    states = cloud(10, 3)
    states[2, 1] = flaw
    nothing = Separability(silhouette=None, centroid_distance=None, separation=None, probe=None)
    assert measure_separability(states, cloud(10, 3), seed=0) == nothing
    assert measure_separability(cloud(10, 3), states, seed=0) == nothing
    assert measure_separability(cloud(0, 3), cloud(10, 3), seed=0) == nothing


@pytest.mark.parametrize(("n", "m"), [(3, 5), (6, 7), (6, 11), (1, 2)])
def test_equal_states_have_no_spread_though_their_mean_rounds(n, m):
    state = 0.1 * torch.arange(1, 9, dtype=torch.float64)
    found = measure_separability(state.expand(n, 8), state.expand(m, 8), seed=0)
    assert (found.centroid_distance, found.separation) == (0.0, 0.0)
    found = measure_separability(state.expand(n, 8), (state + 0.3).expand(m, 8), seed=0)
    assert found.centroid_distance == pytest.approx(0.3 * 8**0.5)
    assert found.separation is None


def test_states_without_spread_have_a_distance_and_no_separation():
    found = measure_separability(torch.zeros(6, 3), torch.ones(6, 3), seed=0)
    assert found.centroid_distance == pytest.approx(3**0.5)
    assert found.separation is None
    assert found.silhouette == pytest.approx(1.0)
    assert found.probe.value == 1.0


def test_equal_states_cannot_be_told_apart():
    found = measure_separability(torch.ones(10, 3), torch.ones(10, 3), seed=0, groups=names(10) * 2)
    assert (found.silhouette, found.centroid_distance, found.separation) == (0.0, 0.0, 0.0)
    assert found.probe.value == 0.5


def test_two_single_states_have_a_distance_alone():
    found = measure_separability(torch.zeros(1, 2), torch.tensor([[3.0, 4.0]]), seed=0)
    assert found == Separability(silhouette=None, centroid_distance=5.0, separation=None, probe=None)


def test_probes_of_states_as_wide_as_a_large_models_converge_within_hundreds_of_steps(monkeypatch):
    probes = []

    def build():
        probes.append(build_probe())
        return probes[-1]

    monkeypatch.setattr(separability, "build_probe", build)
    first = cloud(150, 4096) * torch.logspace(-2, 2, 4096) + 5.0
    second = first + 0.05 * cloud(1, 4096, seed=1) * torch.logspace(-2, 2, 4096)
    found = measure_separability(first, second, seed=0, groups=names(150) * 2)
    assert found.probe.n == 300
    assert len(probes) == 5
    assert max(int(probe[-1].n_iter_.max()) for probe in probes) < 500


def test_measures_survive_json():
    for n in (3, 8):
        found = measure_separability(cloud(n, 3), cloud(n, 3, seed=1), seed=0)
        assert Separability.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found


def test_states_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="same d"):
        measure_separability(np.zeros((3, 2)), np.zeros((3, 4)), seed=0)
    with pytest.raises(ValueError, match="same d"):
        measure_separability(np.zeros(3), np.zeros(3), seed=0)
    with pytest.raises(ValueError, match="5 sample names for 6 states"):
        measure_separability(np.zeros((3, 2)), np.zeros((3, 2)), seed=0, groups=names(5))


def test_held_out_states_are_counted_with_the_nearer_centroid():
    chance = np.random.default_rng(0)
    first = chance.normal(size=(300, 5)) * [1, 1, 1, 1, 1000]
    second = chance.normal(size=(300, 5)) * [1, 1, 1, 1, 1000] + [1, 1, 0, 0, 0]
    found = measure_nearest(first, second, seed=0)
    assert found is not None
    assert found.n == 600
    # Of normal states whose means are √2 apart: the distribution function at half of it, within three deviations.
    assert found.value == pytest.approx(norm.cdf(2**0.5 / 2), abs=3 * (0.76 * 0.24 / 600) ** 0.5)
    order, labels, expected = np.random.default_rng(0).permutation(300), np.repeat([0, 1], 150), 0
    for train, test in ((order[:150], order[150:]), (order[150:], order[:150])):
        fitted = make_pipeline(StandardScaler(), NearestCentroid())
        fitted.fit(np.concatenate([first[train], second[train]]), labels)
        expected += (fitted.predict(np.concatenate([first[test], second[test]])) == labels).sum()
    assert found.successes == expected


def test_nothing_is_learnt_from_states_that_are_held_out():
    chance = np.random.default_rng(1)
    # More numbers than states: those that give the centroids are told apart without fail.
    first, second = chance.normal(size=(2, 100, 2000))
    found = measure_nearest(first, second, seed=0)
    assert found is not None
    assert abs(found.value - 0.5) < 0.15


def test_groups_that_coincide_are_told_apart_by_chance_and_three_samples_not_at_all():
    states = np.ones((8, 3))
    found = measure_nearest(states, states, seed=0)
    assert found is not None
    assert (found.successes, found.n) == (8, 16)
    apart = measure_nearest(states, states + 1, seed=0)
    assert apart is not None
    assert apart.value == 1.0
    assert measure_nearest(states[:3], states[:3], seed=0) is None
