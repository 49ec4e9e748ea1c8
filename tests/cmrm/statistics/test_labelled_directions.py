"""Labelled directions, places along them, and probes: a planted direction is found, and labels of chance are not."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from cmrm.statistics import probe
from cmrm.statistics.labelled_directions import (
    Draws,
    find_axis,
    measure_cosine,
    measure_length,
    measure_places,
)
from cmrm.statistics.probe import cross_validate, fit_probe

CHANCE = np.random.default_rng(3)
COUNT, WIDTH = 80, 12
LABELS = CHANCE.random(COUNT) < 0.4
PLANTED = np.eye(WIDTH)[0] * 3.0
STATES = CHANCE.normal(size=(COUNT, WIDTH)) + 5.0 + LABELS[:, None] * PLANTED
ROWS = np.arange(COUNT)


def test_the_direction_is_the_difference_of_the_means_and_angles_are_numpys() -> None:
    draws = Draws(harmful=LABELS)
    direction = draws.subtract(STATES, ROWS)
    difference = STATES[LABELS].mean(axis=0) - STATES[~LABELS].mean(axis=0)
    np.testing.assert_allclose(direction[0][0], difference)
    mean = draws.average(STATES, ROWS)
    np.testing.assert_allclose(mean[0][0], STATES.mean(axis=0))
    length = measure_length(direction, COUNT)
    assert length.value == pytest.approx(np.linalg.norm(difference))
    assert length.low < 3.0 < length.high
    cosine = measure_cosine(direction, mean, COUNT)
    both = np.linalg.norm(difference) * np.linalg.norm(STATES.mean(axis=0))
    assert cosine.value == pytest.approx(difference @ STATES.mean(axis=0) / both)


def test_intervals_resample_within_each_label() -> None:
    direction = Draws(harmful=LABELS).subtract(STATES, ROWS)
    chance, own, other = np.random.default_rng(9), STATES[LABELS][:, 0], STATES[~LABELS][:, 0]
    resampled = [
        chance.choice(own, len(own)).mean() - chance.choice(other, len(other)).mean() for _ in range(4_000)
    ]
    np.testing.assert_allclose(np.std(direction[1][:, 0]), np.std(resampled), rtol=0.08)
    # No resample lacks a label, however few samples have it.
    few = np.arange(COUNT) < 2
    assert np.isfinite(Draws(harmful=few).subtract(STATES, ROWS)[1]).all()


def test_what_rests_on_one_sample_has_no_interval() -> None:
    # All resamples of one sample are the same: their interval would have no width.
    one = np.arange(COUNT) < 1
    draws = Draws(harmful=one)
    harmful, harmless = measure_places(draws, STATES[:, 0], ROWS)
    assert (harmful.value, harmful.low, harmful.high, harmful.n) == (STATES[0, 0], None, None, 1)
    assert harmless.low < harmless.value < harmless.high
    direction = draws.subtract(STATES, ROWS)
    length, cosine = (
        measure_length(direction, COUNT),
        measure_cosine(direction, [*draws.average(STATES, ROWS)], COUNT),
    )
    assert length.value == pytest.approx(np.linalg.norm(STATES[0] - STATES[1:].mean(axis=0)))
    assert (length.low, cosine.low) == (None, None)
    assert cosine.value is not None


@pytest.mark.parametrize(("truth", "paired"), [(1.0, False), (0.5, False), (0.5, True), (-0.9, False)])
def test_the_interval_of_a_cosine_holds_the_truth_though_noise_makes_cosines_smaller(
    truth: float, *, paired: bool
) -> None:
    # Two directions of length 4 in 60 dimensions with noise of variance 1; a percentile interval holds few.
    chance, labels, hits, plain = np.random.default_rng(12), np.arange(60) < 30, 0, 0
    axes = np.zeros((2, 60))
    axes[:, 0], axes[1, 1] = (4.0, 4.0 * truth), 4.0 * np.sqrt(1 - truth**2)
    for _ in range(25):
        noise = chance.normal(size=(2, 60, 60))
        if paired:
            noise[1] = 0.7 * noise[0] + np.sqrt(0.51) * noise[1]
        first, second = (
            Draws(harmful=labels, seed=seed).subtract(own + labels[:, None] * axis, np.arange(60))
            for own, axis, seed in zip(noise, axes, (0, 0 if paired else 1), strict=True)
        )
        found = measure_cosine(first, second, 60)
        assert found.low <= found.value <= found.high
        assert found.high - found.low < 0.6
        hits += found.low <= truth <= found.high
        lengths = np.linalg.norm(first[1], axis=1) * np.linalg.norm(second[1], axis=1)
        low, high = np.percentile((first[1] * second[1]).sum(axis=1) / lengths, (2.5, 97.5))
        plain += low <= truth <= high
    assert hits >= 22
    assert plain < hits


def test_a_direction_that_noise_explains_may_point_anywhere() -> None:
    chance, labels = np.random.default_rng(13), np.arange(40) < 20
    first, second = (
        Draws(harmful=labels, seed=seed).subtract(chance.normal(size=(40, 300)), np.arange(40))
        for seed in (0, 1)
    )
    found = measure_cosine(first, second, 40)
    assert (found.low, found.high) == (-1.0, 1.0)


def test_samples_without_a_state_are_left_out_of_their_mean_alone() -> None:
    draws, kept = Draws(harmful=LABELS), ROWS[::2]
    np.testing.assert_allclose(draws.average(STATES[kept], kept)[0][0], STATES[kept].mean(axis=0))
    assert np.isnan(draws.average(STATES[:0], ROWS[:0])[0]).all()
    assert measure_length(draws.subtract(STATES[LABELS], ROWS[LABELS]), COUNT).value is None


def test_places_are_0_and_1_at_the_two_means() -> None:
    axis = find_axis(STATES, LABELS)
    assert axis is not None
    along = axis.project(STATES) / axis.length
    harmful, harmless = measure_places(Draws(harmful=LABELS), along, ROWS)
    assert harmful.value == pytest.approx(1.0)
    assert harmless.value == pytest.approx(0.0, abs=1e-12)
    assert harmful.low < 1.0 < harmful.high
    assert (harmful.n, harmless.n) == (LABELS.sum(), (~LABELS).sum())
    assert measure_places(Draws(harmful=LABELS), along[LABELS], ROWS[LABELS])[1].value is None
    assert find_axis(STATES, np.ones(COUNT, dtype=bool)) is None
    assert find_axis(np.ones((COUNT, 2)), LABELS) is None


def test_a_probe_is_scikit_learns_and_finds_a_planted_direction_in_states_it_has_not_seen() -> None:
    train, test = ROWS < 50, ROWS >= 50
    scores = fit_probe(STATES[train], LABELS[train]).decision_function(STATES[test])
    scaler = StandardScaler().fit(STATES[train])
    plain = LogisticRegression(max_iter=10_000).fit(scaler.transform(STATES[train]), LABELS[train])
    np.testing.assert_allclose(scores, plain.decision_function(scaler.transform(STATES[test])))
    assert roc_auc_score(LABELS[test], scores) > 0.85


def test_in_folds_a_planted_direction_is_found_and_labels_of_chance_are_not() -> None:
    found = cross_validate(STATES, LABELS, [str(row) for row in ROWS])
    assert found is not None
    assert found.value > 0.85
    chance = np.random.default_rng(11)
    values = []
    for _ in range(30):
        result = cross_validate(chance.normal(size=(COUNT, WIDTH)), chance.random(COUNT) < 0.5, [*ROWS])
        assert result is not None
        values.append(result.value)
    assert np.mean(values) == pytest.approx(0.5, abs=0.05)


def test_states_of_one_text_are_never_on_both_sides() -> None:
    # Texts with eight nearly equal states each, labelled by chance: who has seen one of them knows the others.
    chance = np.random.default_rng(5)
    states = np.repeat(chance.normal(size=(20, 300)), 8, axis=0) + 0.01 * chance.normal(size=(160, 300))
    labels = np.repeat(np.arange(20) % 2 == 0, 8)
    known = cross_validate(states, labels, [*range(160)])
    unknown = cross_validate(states, labels, [*np.repeat(np.arange(20), 8)])
    assert known is not None
    assert unknown is not None
    assert known.value > 0.99
    assert unknown.value < 0.85


def test_few_texts_of_a_label_have_no_folds_and_of_many_states_some_are_drawn() -> None:
    labels = np.arange(20) < 4
    assert cross_validate(STATES[:20], labels, [*range(20)]) is None
    labels = np.arange(3_000) < 2_600
    rows = probe.draw_rows(labels)
    assert (labels[rows].sum(), (~labels[rows]).sum()) == (2_000, 400)
    assert len(set(rows)) == len(rows)
