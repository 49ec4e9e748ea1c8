"""Labelled directions equal what numpy finds, survive their file, and are refused where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from cmrm.errors import UserError
from cmrm.steering.direction import (
    DirectionEstimator,
    LabelledDirection,
    join_directions,
    load_direction,
    serialize_direction,
)

BLOCKS = (1, 3)


def draw(harmful: int, harmless: int, hidden: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Labelled states [anchors, blocks, hidden] about different means, far from zero as a model's are."""
    generator = torch.Generator().manual_seed(hidden)
    centre = 20 * torch.randn(len(BLOCKS), hidden, generator=generator)
    return (
        centre + 1.5 + torch.randn(harmful, len(BLOCKS), hidden, generator=generator),
        centre + torch.randn(harmless, len(BLOCKS), hidden, generator=generator),
    )


def estimate(harmful: torch.Tensor, harmless: torch.Tensor, *, batch: int = 3) -> LabelledDirection:
    """Estimate from batches of mixed labels."""
    states = torch.cat([harmless, harmful])
    labels = [False] * len(harmless) + [True] * len(harmful)
    estimator = DirectionEstimator(blocks=BLOCKS, hidden_size=states.shape[2])
    order = torch.randperm(len(states), generator=torch.Generator().manual_seed(0)).tolist()
    for start in range(0, len(order), batch):
        rows = order[start : start + batch]
        estimator.add(states[rows], harmful=[labels[row] for row in rows])
    return estimator.finish(model="m", condition="query")


@pytest.mark.parametrize(
    ("harmful", "harmless", "hidden"), [(40, 30, 12), (5, 4, 64), (1, 1, 16), (3, 50, 8)]
)
def test_means_and_principal_directions_are_those_of_numpy(harmful: int, harmless: int, hidden: int) -> None:
    bad, good = draw(harmful, harmless, hidden)
    found = estimate(bad, good)
    np.testing.assert_allclose(found.harmful, bad.double().mean(dim=0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found.harmless, good.double().mean(dim=0), rtol=1e-5, atol=1e-5)
    count = min(8, harmful, hidden)
    assert found.components.shape == (len(BLOCKS), count, hidden)
    for block in range(len(BLOCKS)):
        mean = good[:, block].double().numpy().mean(axis=0)
        expected = np.linalg.svd(bad[:, block].double().numpy() - mean).Vh[:count]
        components = found.components[block].numpy()
        np.testing.assert_allclose(np.abs((components * expected).sum(axis=1)), 1.0, atol=1e-5)
        np.testing.assert_allclose(components @ components.T, np.eye(count), atol=1e-5)
        difference = bad[:, block].double().numpy().mean(axis=0) - mean
        assert (components @ difference >= 0).all()
        unit = difference / np.linalg.norm(difference)
        np.testing.assert_allclose(found.unit[block], unit, rtol=1e-4, atol=1e-5)


def test_equal_anchors_count_as_one_direction_and_not_as_an_arbitrary_one_more() -> None:
    bad, good = draw(2, 4, 16)
    twice = torch.cat([bad, bad, bad])
    found = estimate(twice, good)
    assert found.components.shape[1] == 2
    with pytest.raises(UserError, match=r"interventions.count: 3 directions were asked for, and 2 could"):
        found.take_components(3)


def test_blocks_measured_one_by_one_are_joined_with_what_all_of_them_have() -> None:
    bad, good = draw(3, 4, 16)
    # At the second block two harmful anchors have the same state.
    bad[1, 1] = bad[0, 1]
    parts = []
    for number, block in enumerate(BLOCKS):
        estimator = DirectionEstimator(blocks=[block], hidden_size=16)
        for states, label in ((bad, True), (good, False)):
            estimator.add(states[:, [number]], harmful=[label] * len(states))
        parts.append(estimator.finish())
    assert [one.components.shape[1] for one in parts] == [3, 2]
    joined = join_directions(parts)
    assert joined.blocks == BLOCKS
    assert joined.components.shape == (2, 2, 16)
    torch.testing.assert_close(joined.difference, (bad.mean(dim=0) - good.mean(dim=0)), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("labels", "word"), [([True, True], "harmless"), ([False, False], "harmful")])
def test_anchors_of_one_label_are_too_few(labels: Sequence[bool], word: str) -> None:
    estimator = DirectionEstimator(blocks=BLOCKS, hidden_size=8)
    estimator.add(torch.ones(2, len(BLOCKS), 8), harmful=labels)
    with pytest.raises(
        UserError, match=rf"^anchors.from: no {word} anchor has .* name a data set of each label\.$"
    ):
        estimator.finish()


def test_equal_means_have_no_direction() -> None:
    same = torch.ones(2, len(BLOCKS), 8)
    found = estimate(same, same)
    with pytest.raises(UserError, match="the same mean state at block 1, so there is no direction; choose"):
        _ = found.unit


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_states_that_are_not_finite_are_refused(value: float) -> None:
    states = torch.ones(2, len(BLOCKS), 8)
    states[0, 0, 0] = value
    with pytest.raises(ValueError, match="a state is not finite"):
        DirectionEstimator(blocks=BLOCKS, hidden_size=8).add(states, harmful=[True, False])


def test_a_block_that_was_not_measured_is_named() -> None:
    found = estimate(*draw(3, 3, 8))
    assert found.choose([3]).blocks == (3,)
    torch.testing.assert_close(found.choose([3]).harmful[0], found.harmful[1])
    with pytest.raises(UserError, match=r"no direction was measured at block 2; measured blocks: \[1, 3\]"):
        found.choose([1, 2])


def test_a_file_holds_all_of_it(tmp_path: Path) -> None:
    found = estimate(*draw(5, 4, 8))
    path = tmp_path / "direction.safetensors"
    path.write_bytes(serialize_direction(found))
    again = load_direction(path)
    assert (again.blocks, dict(again.made_from)) == (BLOCKS, {"model": "m", "condition": "query"})
    for name in ("harmful", "harmless", "components"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    assert serialize_direction(again) == path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:0],
        lambda data: data[:20],
        lambda data: data[:-4],
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data.replace(b'"harmless"', b'"harmlexx"'),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "direction.safetensors"
    path.write_bytes(damage(serialize_direction(estimate(*draw(5, 4, 8)))))  # type: ignore[operator] # a function
    with pytest.raises(
        UserError, match=r"direction: .*direction\.safetensors cannot be read .* measure it again\.$"
    ):
        load_direction(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_direction(tmp_path / "none.safetensors")


@pytest.mark.parametrize(
    ("name", "value"), [("direction", "harmless_minus_harmful"), ("schema_version", "2"), ("direction", None)]
)
def test_a_file_of_another_sign_or_version_is_refused(tmp_path: Path, name: str, value: str | None) -> None:
    path = tmp_path / "direction.safetensors"
    path.write_bytes(serialize_direction(estimate(*draw(5, 4, 8))))
    metadata = {"schema_version": "1", "direction": "harmful_minus_harmless"}
    metadata = {key: one for key, one in {**metadata, name: value}.items() if one is not None}
    save_file(load_file(path), path, metadata=metadata)
    with pytest.raises(UserError, match=rf"has {name} {value!r}, not .*; measure it again\.$"):
        load_direction(path)
